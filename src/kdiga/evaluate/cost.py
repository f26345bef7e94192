"""What an evaluation takes, foretold from the time of a few passes of the model; and how many images fit into a given time.

Nothing here looks at whether the model is right, so that a number of images chosen by time does not depend on outcomes.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from time import perf_counter

import torch
from torch import Tensor, nn

from kdiga.attacks import AUTOATTACK, expand
from kdiga.attacks.autoattack import QUERIES, STEPS
from kdiga.attacks.fab import approach
from kdiga.attacks.guard import guarded
from kdiga.attacks.packing import TARGETS
from kdiga.attacks.square import search
from kdiga.errors import BadInput
from kdiga.inner import maximise
from kdiga.losses import cross_entropy
from kdiga.types import Images, Threat

FEW, LONG = 8, 1.0  # images that are timed first; seconds from which a whole batch is not timed
SPAN, TIMES = 0.5, 20  # a batch is timed for so many seconds, at most so many times; what else slows the machine counts
ASKED = 4  # of Square's queries, to be timed
FEWEST = 50  # images: with fewer, a 95 % interval is up to 27 points wide
UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


@dataclass(frozen=True)
class Cost:
    """Seconds for each image, on the machine where it was measured: `low` if the first step of AutoAttack breaks every image, `high` if
    every image is right and withstands everything."""

    low: float
    high: float


def passes(attack: str, classes: int) -> tuple[int, int]:
    """(forward passes, steps of ascent) that an attack takes for an image which withstands it; a step is a forward and a backward pass."""
    targets = min(TARGETS, classes - 1)
    return {
        "fgsm": (0, 1),
        "pgd20": (0, 20),
        "pgd100": (0, 100),
        "apgd-ce": (0, STEPS + 1),
        "apgd-t": (0, targets * (STEPS + 1)),
        "fab-t": (targets * STEPS, targets * STEPS),
        "square": (QUERIES + 1, 0),
        "pyautoattack": (2 * targets * STEPS + QUERIES, (STEPS + 1) * (targets + 1) + targets * STEPS),
    }[attack]


def cost(model: nn.Module, x: Images, threat: Threat, attacks: Sequence[str], *, batch_size: int = 256) -> Cost:
    """What `evaluate` will take for images like `x`: the passes of each attack, times what one takes here and now.

    A forward pass and a step of ascent are timed on a full batch, or on a few images where that would take long.
    """
    x = x[:batch_size].to(next(model.parameters(), x).device)
    with guarded(model, x.device):
        classes = model(x[:1]).shape[1]

        def step(u: Images) -> Tensor:
            y = torch.zeros(len(u), dtype=torch.int64, device=u.device)
            return maximise(lambda v: cross_entropy(model(v), y), u, threat, steps=1, start=u)

        with torch.no_grad():
            forward = _seconds(model, x)
        ascent = _seconds(step, x)
        more = _beside(model, x, classes, threat, attacks, forward, ascent) if forward * len(x) <= LONG else {}
    once = {  # + 1: is it verified
        name: (f + 1) * forward + s * ascent + (s or f) * more.get(name, 0.0)
        for name in expand(attacks)
        for f, s in [passes(name, classes)]
    }
    fixed = sum(seconds for name, seconds in once.items() if name not in AUTOATTACK)
    first = forward + ascent if any(name in AUTOATTACK for name in once) else 0.0
    return Cost(low=forward + fixed + first, high=forward + sum(once.values()))


def _beside(
    model: nn.Module, x: Images, classes: int, threat: Threat, attacks: Sequence[str], forward: float, ascent: float
) -> dict[str, float]:
    """What a step of FAB and a query of Square take beside the model's passes: on a small network most of their time."""
    with torch.no_grad():
        y = model(x).argmax(1)
    row = torch.arange(len(x), device=x.device)
    small = Threat(norm=threat.norm, eps=1e-6)  # nothing is broken: no search ends early

    def step(u: Images) -> Tensor:
        n = len(u)
        return approach(model, u, y[:n], row[:n], (y[:n] + 1) % classes, small, steps=1)[0]

    def queries(u: Images) -> Tensor:
        return search(model, u, y[: len(u)], small, queries=ASKED)[0]

    own = {
        "fab-t": lambda: _seconds(step, x) - forward - ascent,
        "square": lambda: (_seconds(queries, x) - (ASKED + 1) * forward) / ASKED,
    }
    return {name: max(own[name](), 0.0) for name in expand(attacks) if name in own}


def _seconds(work: Callable[[Images], Tensor], x: Images) -> float:
    """Seconds per image."""
    _timed(work, x[:FEW])  # the first call prepares what later ones find ready
    seconds = _timed(work, x[:FEW]) / len(x[:FEW])
    if seconds * len(x) > LONG:
        return seconds
    taken: list[float] = []
    while sum(taken) < SPAN and len(taken) < TIMES:
        taken.append(_timed(work, x))
    return fmean(taken) / len(x)


def _timed(work: Callable[[Images], Tensor], x: Images) -> float:
    begin = perf_counter()
    work(x).sum().item()  # on a GPU, only a value says that the work is done
    return perf_counter() - begin


def duration(text: str) -> float:
    """Seconds: `90s`, `10m`, `2h`, or a plain number of seconds. Raises BadInput for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]*)", text.strip())
    if not found or found[2] not in UNITS or float(found[1]) == 0:
        raise BadInput(f"a budget of '{text}' is no time: write 90s, 10m or 2h")
    return float(found[1]) * UNITS[found[2]]


def affordable(each: Cost, seconds: float, most: int) -> int:
    """The largest number of images, at most `most`, that takes no longer than `seconds` even if every image withstands everything; below
    `most` rounded down to two digits, so that noise in the timing rarely changes it. Raises BadInput where not even FEWEST images fit."""
    n = int(seconds / each.high)
    if n >= most:
        return most
    n -= n % int(10 ** max(len(str(n)) - 2, 0))
    if n < FEWEST:
        fewest = min(FEWEST, most)
        raise BadInput(
            f"a budget of {seconds:g} seconds is too short: {fewest} images, the fewest that say anything, may take {each.high * fewest:.0f} "
            f"seconds here; give --budget {1.2 * each.high * fewest:.0f}s, or weaker attacks (--attacks pgd20)"
        )
    return n
