"""What can be measured of a model, sample by sample. Each file is one measure or one family; this dict is the contents page.

Every measure is a function (model, x, y, threat, *, options) -> [b]. Those that compare with a teacher have a keyword-only parameter
`teacher`, which the caller fills in (GIVEN). A measure leaves the model as it found it; a random start is drawn from torch's global
generator. What a measure proves and what it only estimates is said in its docstring and in docs/theory.md.
"""

from kdiga.types import Measure

MEASURES: dict[str, Measure] = {}

GIVEN = frozenset({"teacher"})
