"""The attacks by name, and `autoattack`, which stands for four of them.

    name      knowledge  paper, arXiv                       what is run
    fgsm      gradient   Goodfellow et al. 2015, 1412.6572  one step of eps from the image
    pgd20     gradient   Madry et al. 2018, 1706.06083      20 steps of eps / 4 on the cross-entropy from a random point
    pgd100    gradient   Madry et al. 2018, 1706.06083      100 steps of eps / 10
    apgd-ce   gradient   Croce and Hein 2020, 2003.01690    Auto-PGD on the cross-entropy
    apgd-t    gradient   Croce and Hein 2020, 2003.01690    Auto-PGD on the targeted DLR loss
    fab-t     gradient   Croce and Hein 2020, 1907.02044    the nearest point across each target's boundary
    square    scores     Andriushchenko et al. 2020, 1912.00049  random search with squares

Every attack leaves the model (mode, gradients, statistics) and the random state as it found them. A random start is drawn from the
current state of torch's global generator: the same state, the same images; `torch.manual_seed` before a call for other ones.
"""

from collections.abc import Sequence
from functools import partial

from kdiga.attacks.autoattack import apgd_ce, apgd_t, fab_t, square
from kdiga.attacks.pgd import fgsm, pgd
from kdiga.errors import BadInput
from kdiga.options import choices
from kdiga.types import Attack

ATTACKS: dict[str, Attack] = {
    "fgsm": fgsm,
    "pgd20": partial(pgd, steps=20, step=1 / 4),
    "pgd100": partial(pgd, steps=100, step=1 / 10),
    "apgd-ce": apgd_ce,
    "apgd-t": apgd_t,
    "fab-t": fab_t,
    "square": square,
}
AUTOATTACK = ("apgd-ce", "apgd-t", "fab-t", "square")


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """The attacks to run, each once, in the order given; `autoattack` stands for its four. Raises BadInput for an unknown name."""
    for name in names:
        if name != "autoattack" and name not in ATTACKS:
            raise BadInput(f"there is no attack '{name}': {choices(name, [*ATTACKS, 'autoattack'])}")
    return tuple(dict.fromkeys(n for name in names for n in (AUTOATTACK if name == "autoattack" else (name,))))
