"""The attacks by name, and `autoattack`, which stands for four of them.

Every attack leaves the model (mode, gradients, statistics) and the random state as it found them. A random start is drawn from the
current state of torch's global generator: the same state, the same images; `torch.manual_seed` before a call for other ones.
"""

from collections.abc import Sequence

from kdiga.attacks.autoattack import apgd_ce, apgd_t, fab_t, square
from kdiga.attacks.pgd import fgsm, pgd20, pgd100
from kdiga.attacks.reference import pyautoattack
from kdiga.errors import BadInput
from kdiga.options import choices
from kdiga.types import Attack

ATTACKS: dict[str, Attack] = {
    "fgsm": fgsm,
    "pgd20": pgd20,
    "pgd100": pgd100,
    "pyautoattack": pyautoattack,
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
