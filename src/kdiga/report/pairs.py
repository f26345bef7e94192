"""Whether each model is told apart from the next, by their outcomes on the same images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kdiga.report.methods import chance
from kdiga.report.rows import Row
from kdiga.stats import images_to_separate, paired
from kdiga.types import Outcomes

LEVEL = 0.05  # p-values below it tell two models apart


@dataclass(frozen=True, kw_only=True)
class Pair:
    """`first` withstands AutoAttack on `only_first` of n images on which `second` does not, and the other way round. `p` is of McNemar's
    exact test; `images`: how many would tell them apart with probability 0.8 if they go on like this, None where p already does or they
    are equal."""

    first: str
    second: str
    n: int
    only_first: int
    only_second: int
    p: float
    images: int | None


def pairs(rows: Sequence[Row], outcomes: Mapping[str, Outcomes]) -> list[Pair]:
    """One for each two neighbours in the order of AutoAttack accuracy; `outcomes` under AutoAttack by model, on the same images."""
    ranked = sorted((r for r in rows if r.name in outcomes), key=lambda r: r.autoattack or 0.0, reverse=True)
    return [_pair(a.name, b.name, outcomes[a.name], outcomes[b.name]) for a, b in pairwise(ranked)]


def _pair(first: str, second: str, a: Outcomes, b: Outcomes) -> Pair:
    n, only_a, only_b, p = len(a), int((a & ~b).sum()), int((b & ~a).sum()), paired(a, b)
    images = None
    if p >= LEVEL and only_a != only_b:
        images = images_to_separate(int(a.sum()) / n, int(b.sum()) / n, discordant=(only_a + only_b) / n)
    return Pair(first=first, second=second, n=n, only_first=only_a, only_second=only_b, p=p, images=images)


def lines(found: Sequence[Pair]) -> list[str]:
    """A sentence for each pair."""
    return [_line(pair) for pair in found]


def _line(pair: Pair) -> str:
    ahead = pair.only_first - pair.only_second
    if ahead == 0:
        return f"{pair.first} and {pair.second} withstand AutoAttack on equally many of the same {pair.n} images."
    said = f"{pair.first} is {100 * ahead / pair.n:.1f} points above {pair.second} under AutoAttack, on the same {pair.n} images: "
    said += f"p {'' if pair.p < 0.001 else '= '}{chance(pair.p)}"
    if pair.images is None:
        return f"{said}{', not told apart' if pair.p >= LEVEL else ''}."
    return f"{said}, not told apart; a difference like this takes about {_rounded(pair.images)} images to show (power 0.8)."


def _rounded(n: int) -> int:
    """Two digits, upwards: an estimate is not known to the image."""
    unit = int(10 ** max(len(str(n)) - 2, 0))
    return -(-n // unit) * unit
