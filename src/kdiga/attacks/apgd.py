"""Croce and Hein 2020, arXiv 2003.01690: Auto-PGD (Algorithm 1), whose step size follows from the losses that it has seen.

Steps of 2 eps at first, with momentum 3/4; at checkpoints, which come closer and closer, a run that rose in less than 3/4 of the steps,
or whose best loss has stood still since the last checkpoint, halves its step and goes back to its best point.
Not a call of `inner.maximise`: that takes steps of one size, and a run ends here as soon as its sample is misclassified.
The authors' code counts the first step as a rise if its loss is positive, rather than above the start's; so do we.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdiga.attacks.packing import Points, Runs, first_of, packed, right
from kdiga.inner import direction, project
from kdiga.losses import cross_entropy, input_gradient
from kdiga.types import Images, Labels, Logits, Outcomes, PerSample, Threat

Loss = Callable[[Logits, Labels, Labels], PerSample]  # (logits, label, target): to be raised


@dataclass
class Run:
    """One sample aimed at one class. `row` is the sample's position in the batch, `step` the step size in units of eps."""

    x: Images
    y: Labels
    row: Labels
    target: Labels
    u: Images
    before: Images
    g: Images
    best_u: Images
    best_g: Images
    value: PerSample
    best: PerSample
    checked: PerSample
    rises: PerSample
    halved: Outcomes
    step: Tensor


def climb(
    model: nn.Module, loss: Loss, x: Images, y: Labels, row: Runs, target: Runs, threat: Threat, *, start: Points, steps: int
) -> tuple[Images, Outcomes]:
    """For each of x a misclassified point of one of its runs, if any was met, and whether. `start` has one point per run."""
    found, broken = x.clone(), torch.zeros_like(y, dtype=torch.bool)
    low, zero = torch.full_like(start[:, 0, 0, 0], -torch.inf), torch.zeros_like(start[:, 0, 0, 0])
    s = Run(x[row], y[row], row, target, start, start, start, start, start, zero, low, low, zero, broken[row] | True, 2 + zero)
    checks = checkpoints(steps)
    for i in range(steps + 1):
        u = s.u.detach().requires_grad_()
        z = model(u)
        wrong = ~right(z.detach(), s.y) & s.u.isfinite().flatten(1).all(1)  # a gradient that is NaN leads to no image
        hit = first_of(s.row, wrong, len(x))
        found[s.row[hit]], broken[s.row[hit]] = u.detach()[hit], True
        if i == steps or broken[s.row].all():
            break
        value = loss(z, s.y, s.target)
        s.g, s.u, value = input_gradient(value, u), u.detach(), value.detach()
        if i:
            s.rises, s.value = s.rises + (value > s.value), value
        better = value > s.best
        s.best = torch.where(better, value, s.best)
        s.best_u, s.best_g = torch.where(_wide(better), s.u, s.best_u), torch.where(_wide(better), s.g, s.best_g)
        if i in checks:
            _check(s, checks[i])
        s.before, s.u = s.u, _step(s, threat, 0.75 if i else 1.0)
        s = packed(s, ~broken[s.row])
    return found, broken


def _check(s: Run, since: int) -> None:
    halve = (s.rises <= 0.75 * since) | (~s.halved & (s.checked >= s.best))
    s.step = torch.where(halve, s.step / 2, s.step)
    s.u, s.g = torch.where(_wide(halve), s.best_u, s.u), torch.where(_wide(halve), s.best_g, s.g)
    s.halved, s.checked, s.rises = halve, s.best, torch.zeros_like(s.rises)


def _step(s: Run, threat: Threat, keep: float) -> Images:
    v = project(s.u + threat.eps * _wide(s.step) * direction(s.g, threat), s.x, threat)
    return v if keep == 1 else project(s.u + (v - s.u) * keep + (s.u - s.before) * (1 - keep), s.x, threat)


def checkpoints(steps: int) -> dict[int, int]:
    """The steps after which the step size is looked at, and how many lie between each and the one before: 22, 41, 57, ... of 100."""
    since, at, found = max(int(0.22 * steps), 1), 0, dict[int, int]()
    while (at := at + since) <= steps:
        found[at] = since
        since = max(since - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    return found


def random_start(x: Images, threat: Threat) -> Images:
    """A point at distance eps: uniform noise whose largest pixel reaches it (l-inf), or uniform on the sphere (l2)."""
    noise = 2 * torch.rand_like(x) - 1 if threat.norm == torch.inf else torch.randn_like(x)
    return project(x + threat.eps * noise / torch.linalg.vector_norm(noise, threat.norm, (1, 2, 3), keepdim=True), x, threat)


def untargeted(z: Logits, y: Labels, target: Labels) -> PerSample:
    """The cross-entropy."""
    return cross_entropy(z, y)


def targeted(z: Logits, y: Labels, target: Labels) -> PerSample:
    """The targeted DLR loss (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2); with two or three classes its numerator."""
    margin = (z.gather(1, target[:, None]) - z.gather(1, y[:, None]))[:, 0]
    if z.shape[1] < 4:
        return margin
    top = z.topk(4, 1).values
    return margin / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def _wide(v: Tensor) -> Tensor:
    return v[:, None, None, None]
