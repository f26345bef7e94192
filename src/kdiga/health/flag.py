"""What a check says, when a difference counts, and health.json."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kdiga.errors import BadInput
from kdiga.folder import atomic_write
from kdiga.stats import paired
from kdiga.types import Outcomes

NAME = "health.json"
CHECKS: dict[str, str] = {
    "iterations": "more steps of PGD do not break more images",
    "eps-sweep": "accuracy falls to zero as eps grows",
    "one-step": "one step does not break more than twenty",
    "black-box": "Square breaks nothing that the gradient attacks leave",
    "transfer": "other models' adversarial images break nothing that the model's own leave",
    "random-search": "random points of the ball break nothing that the gradient attacks leave",
    "gradients": "the loss has an input gradient that an attack can follow",
    "probabilities": "the model returns logits, not probabilities",
    "randomness": "the same images get the same logits twice",
    "training-mode": "the model was handed over in evaluation mode",
    "reach": "steps times step size can cross the ball",
}
ALPHA = 0.01  # of a one-sided test: a healthy model raises one of the three checks that test in less than one of 30 evaluations
POINT = 0.01  # of the images: the smallest difference that a table with one decimal and 1000 images lets a reader see
SPILL = 0.002  # of the images: where AutoAttack's authors call Square's gain over gradient attacks suspicious
FEW = 3  # images: one or two are what another random start moves
FEWEST = 20  # images that are right: below it FEW of them are no sign of anything


@dataclass(frozen=True)
class Flag:
    """`raised` is None where the check could not be made, and `said` says why; else `said` has what was measured and what it means."""

    name: str
    raised: bool | None
    said: str
    numbers: dict[str, float] = field(default_factory=dict)


def unchecked(name: str, why: str) -> Flag:
    """A check that was not made."""
    return Flag(name, None, f"not checked: {why}")


def breaks_more(strong: Outcomes, weak: Outcomes, tests: int = 1) -> tuple[bool, float]:
    """Whether `strong` leaves clearly fewer images standing than `weak`, and the one-sided p-value of McNemar's exact test, times the
    number of such tests that the check makes (Bonferroni)."""
    more = int(weak.sum()) - int(strong.sum())
    p = min(1.0, tests * paired(strong, weak) / 2) if more > 0 else 1.0
    return p < ALPHA and more >= POINT * len(weak), p


def write(flags: Sequence[Flag], path: Path) -> None:
    """health.json: a list with one object per check."""
    atomic_write(path, (json.dumps([asdict(flag) for flag in flags], indent=1, ensure_ascii=False) + "\n").encode())


def read(path: Path) -> list[Flag]:
    """What `write` wrote. Raises BadInput for anything else."""
    try:
        flags = [Flag(f["name"], f["raised"], f["said"], f["numbers"]) for f in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} cannot be read ({error}): evaluate again with --resume") from None
    for flag in flags:
        if flag.name not in CHECKS or flag.raised not in (True, False, None) or not isinstance(flag.said, str):
            raise BadInput(f"{path} has an entry that is no check of kdiga: evaluate again with --resume")
    return flags
