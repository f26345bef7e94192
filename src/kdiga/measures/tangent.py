"""A loss near an image: its tangent there, and the highest value of the loss, or of its departure from the tangent, that ascent finds.

What ascent finds is at most the true maximum: more restarts, from the same seed, can only raise it. More steps may not: they are smaller.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Literal

import torch
from torch import nn

from kdiga.inner import maximise, random_point
from kdiga.losses import cross_entropy, input_gradient, margin
from kdiga.types import Images, Labels, PerSample, Threat

Loss = Literal["ce", "margin"]
LOSSES = {"ce": cross_entropy, "margin": margin}
LIMITS = {"ce": log(2.0), "margin": 0.0}  # a loss below it: the label wins
WARM = 10  # steps of ascent on the loss itself


@dataclass(frozen=True, eq=False)
class Tangent:
    """A loss as a function of the images, with its value and gradient at `x`."""

    loss: Callable[[Images], PerSample]
    x: Images
    value: PerSample
    gradient: Images

    def residual(self, u: Images) -> PerSample:
        """r = l(u) - l(x) - (u - x) . grad l(x)."""
        return self.loss(u) - self.value - ((u - self.x) * self.gradient).flatten(1).sum(1)


def tangent(model: nn.Module, x: Images, y: Labels, loss: Loss) -> Tangent:
    """The tangent of a model's loss at x; call it under `guarded`."""
    x, y = x.detach().clone().requires_grad_(), y.clone()

    def of(u: Images) -> PerSample:
        return LOSSES[loss](model(u), y)

    value = of(x)
    return Tangent(of, x.detach(), value.detach(), input_gradient(value, x))


class Search:
    """Ascent in the ball around x from `restarts` random points, drawn once: every search of it starts from the same ones."""

    def __init__(self, x: Images, threat: Threat, *, steps: int, restarts: int) -> None:
        self.x, self.threat, self.steps = x, threat, steps
        self.starts = [random_point(x, threat) for _ in range(restarts)]

    def highest(self, f: Callable[[Images], PerSample], starts: list[Images] | None = None) -> PerSample:
        """The highest value of f that is seen at x or on the way of an ascent, in `steps` steps of 5 eps / steps, at most eps."""
        with torch.no_grad():
            best = f(self.x)

        def watched(u: Images) -> PerSample:
            nonlocal best
            value = f(u)
            best = torch.maximum(best, value.detach())
            return value

        step_size = min(5 / self.steps, 1.0) * self.threat.eps
        for start in self.starts if starts is None else starts:
            end = maximise(watched, self.x, self.threat, steps=self.steps, step_size=step_size, start=start)
            with torch.no_grad():
                watched(end)
        return best

    def departure(self, t: Tangent, sign: int) -> PerSample:
        """The largest sign * r(u) found: how far the loss is above its tangent (1) or below it (-1) in the ball; at least 0.

        Every other search, the first included, starts where `WARM` steps on the loss itself lead: where the loss is high its residual
        often is, and from there a search finds what one from a random point may miss.
        """
        warm = [maximise(lambda u: sign * t.loss(u), self.x, self.threat, steps=WARM, start=start) for start in self.starts[::2]]
        return self.highest(lambda u: sign * t.residual(u), [*warm, *self.starts[1::2]])
