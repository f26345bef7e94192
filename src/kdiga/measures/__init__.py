"""What can be measured of a model, sample by sample. Each file is one measure or one family; this dict is the contents page.

Every measure is a function (model, x, y, threat, *, options) -> [b]. Those that compare with a teacher have a keyword-only parameter
`teacher`, which the caller fills in (GIVEN). A measure leaves the model as it found it; a random start is drawn from torch's global
generator. What a measure proves and what it only estimates is said in its docstring and in docs/theory.md.
"""

from collections.abc import Callable

from kdiga.measures.alignment import gradient_cosine, gradient_l1, gradient_l2
from kdiga.measures.bounds import crown_ibp_margin, ibp_margin
from kdiga.measures.clever import clever
from kdiga.measures.linearity import linear_bound, local_linearity
from kdiga.measures.smoothing import smoothing_radius
from kdiga.measures.transfer import transfer_bound, transfer_slack
from kdiga.types import PerSample

MEASURES: dict[str, Callable[..., PerSample]] = {
    "local-linearity": local_linearity,
    "linear-bound": linear_bound,
    "gradient-l2": gradient_l2,
    "gradient-l1": gradient_l1,
    "gradient-cosine": gradient_cosine,
    "transfer-bound": transfer_bound,
    "transfer-slack": transfer_slack,
    "clever": clever,
    "smoothing-radius": smoothing_radius,
    "ibp-margin": ibp_margin,
    "crown-ibp-margin": crown_ibp_margin,
}

GIVEN = frozenset({"teacher"})
