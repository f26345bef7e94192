"""The attacks that the checks need and an evaluation does not run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from kdiga.attacks import ATTACKS
from kdiga.attacks.packing import right
from kdiga.attacks.pgd import fgsm, pgd, pgd20
from kdiga.errors import BadInput
from kdiga.evaluate.stage import stream, withstands
from kdiga.health import judged
from kdiga.health.flag import Flag, unchecked
from kdiga.inner import project, random_point
from kdiga.losses import norm
from kdiga.types import Attack, Images, Labels, Outcomes, Progress, Threat

SQUARED, POINTS = 64, 1000  # images for Square, whose 5000 queries are the dearest check; random points for each image
STARTS = 3  # of APGD-T, before an image counts as one that gradients do not break
STEPS = {10: 1 / 4, 50: 1 / 10, 200: 1 / 20}  # of PGD, and their size as a share of eps: more steps are finer and go further, too


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, images that it is right on, and how they are attacked."""

    model: nn.Module
    x: Images
    y: Labels
    threat: Threat
    batch_size: int
    seed: int

    def stand(self, attack: Attack, name: str, rows: Int64[Tensor, "r"] | None = None, eps: float | None = None) -> Outcomes:
        """Which images (`rows` of them) it is right on after the attack; the random numbers come from (seed, name, first row)."""
        x, y = (self.x, self.y) if rows is None else (self.x[rows], self.y[rows])
        threat = self.threat if eps is None else Threat(norm=self.threat.norm, eps=eps)
        found = [torch.zeros(0, dtype=torch.bool, device=x.device)]
        for start in range(0, len(x), self.batch_size):
            u, v = x[start : start + self.batch_size], y[start : start + self.batch_size]
            torch.manual_seed(stream(self.seed, name, start))
            found.append(withstands(self.model, attack(self.model, u, v, threat), u, v, threat))
        return torch.cat(found)


def attack(
    subject: Subject, left: list[Outcomes], known: Mapping[str, Flag], sources: Mapping[str, nn.Module], tell: Progress
) -> dict[str, Flag]:
    """The checks that need attacks, save those in `known`; `left`: what gradient attacks that have run leave standing."""
    steps, sweep, n = more_steps(subject, tell), eps_sweep(subject, tell), len(subject.x)
    flags = {"iterations": judged.iterations(steps), "eps-sweep": judged.eps_sweep(sweep)}
    at_eps = sweep[min(sweep)]
    if "one-step" not in known:
        flags["one-step"] = judged.one_step(subject.stand(fgsm, "one-step"), at_eps)
    rows = torch.stack([*left, *steps.values(), at_eps]).all(0).nonzero()[:, 0]
    flags["transfer"] = judged.transfer(n, len(rows), transfer(subject, rows, sources, tell))
    lost = withstood(subject, rows[~random_search(subject, rows, tell)])
    flags["random-search"] = judged.spill("random-search", f"one of {POINTS} random points", n, len(rows), *lost)
    if "black-box" not in known:
        flags["black-box"] = black_box(subject, rows, tell)
    return flags


def more_steps(subject: Subject, tell: Progress) -> dict[int, Outcomes]:
    """What PGD leaves standing, by number of steps, from the same random start."""
    left: dict[int, Outcomes] = {}
    for steps, step in STEPS.items():
        tell("health: iterations", len(left), len(STEPS))
        left[steps] = subject.stand(partial(pgd, steps=steps, step=step), "iterations")
    return left


def eps_sweep(subject: Subject, tell: Progress) -> dict[float, Outcomes]:
    """What PGD-20 leaves standing at eps, doubled until every image has been broken or eps spans the whole range of an image."""
    left: dict[float, Outcomes] = {}
    for eps in radii(subject.threat, subject.x[0].numel()):
        tell("health: eps-sweep", len(left), len(left) + 1)
        left[eps] = subject.stand(pgd20, "eps-sweep", eps=eps)
        if not torch.stack(list(left.values())).all(0).any():
            break
    return left


def radii(threat: Threat, size: int) -> Iterator[float]:
    """eps, doubled until it spans the whole range of an image of `size` numbers."""
    widest, eps = 1.0 if threat.norm == inf else size**0.5, threat.eps
    while eps < widest:
        yield eps
        eps *= 2
    yield widest


def transfer(
    subject: Subject, rows: Int64[Tensor, "r"], sources: Mapping[str, nn.Module], tell: Progress
) -> dict[str, tuple[int, int]]:
    """How many of the images `rows` PGD-20 on each source breaks on the subject, and how many of these withstand APGD-T."""
    broken: dict[str, tuple[int, int]] = {}
    for name, source in sources.items():
        tell("health: transfer", len(broken), len(sources))
        broken[name] = withstood(subject, rows[~subject.stand(_on(source), "transfer", rows)])
    return broken


def _on(source: nn.Module) -> Attack:
    """PGD-20 on this model, whatever model is given."""
    return lambda model, x, y, threat: pgd20(source, x, y, threat)


def random_search(subject: Subject, rows: Int64[Tensor, "r"], tell: Progress, points: int = POINTS) -> Outcomes:
    """Which of the images `rows` the model is right on at every one of `points` random points, in turn of the ball and of its corners."""
    torch.manual_seed(stream(subject.seed, "random-search", 0))
    left = torch.ones_like(rows, dtype=torch.bool)
    for i in range(points):
        still = left.nonzero()[:, 0]
        for some in still.split(subject.batch_size):
            x, y = subject.x[rows[some]], subject.y[rows[some]]
            with torch.no_grad():
                u = corner(x, subject.threat) if i % 2 else random_point(x, subject.threat)
                left[some] = right(subject.model(u), y)
        tell("health: random-search", i + 1, points)
    return left


def corner(x: Images, threat: Threat) -> Images:
    """A random point as far away as is allowed: l-inf: every pixel moved by eps; l2: eps in a uniform direction."""
    d = torch.randn_like(x)
    d = d.sign() if threat.norm == inf else d / norm(d, 2.0).clamp_min(1e-12)[:, None, None, None]
    return project(x + threat.eps * d, x, threat)


def black_box(subject: Subject, rows: Int64[Tensor, "r"], tell: Progress) -> Flag:
    """Square on at most SQUARED of the images `rows`."""
    rows = evenly(rows, SQUARED)
    tell("health: black-box", 0, len(rows))
    try:
        lost = withstood(subject, rows[~subject.stand(ATTACKS["square"], "black-box", rows)])
    except BadInput as error:
        return unchecked("black-box", str(error))
    return judged.spill("black-box", "Square", len(subject.x), len(rows), *lost)


def withstood(subject: Subject, broken: Int64[Tensor, "r"]) -> tuple[int, int]:
    """The number of images that an attack without the model's gradients broke, and how many of them withstand STARTS runs of APGD-T.

    One run is not enough: of the images near the boundary it leaves others from each random start.
    """
    left = broken
    for start in range(STARTS):
        left = left[subject.stand(ATTACKS["apgd-t"], f"apgd-t from start {start}", left)]
    return len(broken), len(left)


def evenly(rows: Int64[Tensor, "r"], count: int) -> Int64[Tensor, "s"]:
    """At most `count` of the rows, evenly spaced."""
    return rows[torch.arange(min(count, len(rows)), device=rows.device) * len(rows) // max(1, min(count, len(rows)))]
