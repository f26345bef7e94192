"""The one ascent loop: every inner maximisation of every method and every gradient attack of ours calls `maximise`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf

import torch
from torch import nn

from kdiga.errors import BadInput
from kdiga.losses import input_gradient, norm
from kdiga.types import Images, PerSample, Threat

_found: ContextVar[list[Images] | None] = ContextVar("found", default=None)
_given: ContextVar[Iterator[Images] | None] = ContextVar("given", default=None)


def maximise(
    f: Callable[[Images], PerSample], x: Images, threat: Threat, *, steps: int, step_size: float | None = None, start: Images
) -> Images:
    """Projected steepest ascent on f over the ball around x, cut to [0, 1]; the last iterate (Madry et al. 2018, arXiv 1706.06083).

    u <- project(u + step_size * direction(grad f(u))), from `start`; step_size in image units. Its default, 2.5 eps / steps and at most
    eps, is eps / 4 at ten steps (2/255 at 8/255) and lets the iterate cross the ball at any number of steps from two on.
    A step above the ball's diameter is refused: published code has swapped eps and step.
    """
    if (given := _given.get()) is not None:
        return _noted(next(given))
    if steps < 1:
        raise BadInput(f"an attack needs at least one step, got steps={steps}")
    step_size = min(2.5 / steps, 1.0) * threat.eps if step_size is None else step_size
    if step_size > 2 * threat.eps:
        raise BadInput(f"step size {step_size:g} is above the diameter of the ball, {2 * threat.eps:g}: eps and step swapped?")
    u = project(start, x, threat)
    for _ in range(steps):
        u = u.detach().requires_grad_()
        u = project(u.detach() + step_size * direction(input_gradient(f(u), u), threat), x, threat)
    return _noted(u.detach())


def _noted(u: Images) -> Images:
    if (found := _found.get()) is not None:
        found.append(u)
    return u


@contextmanager
def remembering() -> Iterator[list[Images]]:
    """Inside, every point that `maximise` returns is also appended to the list; one remembering around another hears of them too."""
    found: list[Images] = []
    token = _found.set(found)
    try:
        yield found
    finally:
        _found.reset(token)
        if (outer := _found.get()) is not None:
            outer.extend(found)


@contextmanager
def repeating(points: list[Images]) -> Iterator[None]:
    """Inside, `maximise` returns these points, in their order, and does not search: an objective called a second time is not attacked again."""
    token = _given.set(iter(points))
    try:
        yield
    finally:
        _given.reset(token)


def direction(g: Images, threat: Threat) -> Images:
    """The unit step that raises a linear function with gradient g most: sign(g) for l-inf, g / ||g||_2 for l2 (0 where g is 0)."""
    if threat.norm == inf:
        return g.sign()
    return g / norm(g, 2.0).clamp_min(1e-12)[:, None, None, None]


def dual_norm(g: Images, threat: Threat) -> PerSample:
    """The most that a linear function with gradient g rises on a ball of radius 1: the l1 norm for l-inf, the l2 norm for l2."""
    return norm(g, 1.0 if threat.norm == inf else 2.0)


def project(u: Images, x: Images, threat: Threat) -> Images:
    """u moved into the ball around x, then into [0, 1]; x is in [0, 1], so the second move does not leave the ball."""
    if threat.norm == inf:
        return torch.minimum(torch.maximum(u, x - threat.eps), x + threat.eps).clamp(0, 1)
    d = u - x
    scale = (threat.eps / norm(d, 2.0).clamp_min(1e-12)).clamp_max(1)
    return (x + d * scale[:, None, None, None]).clamp(0, 1)


def random_point(x: Images, threat: Threat) -> Images:
    """A point drawn uniformly from the ball around x, then clipped to [0, 1]."""
    if threat.norm == inf:
        return project(x + threat.eps * (2 * torch.rand_like(x) - 1), x, threat)
    d = torch.randn_like(x)
    radius = threat.eps * torch.rand_like(x[:, :1, :1, :1]) ** (1 / x[0].numel())
    return project(x + radius * d / norm(d, 2.0).clamp_min(1e-12)[:, None, None, None], x, threat)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each module's own mode again after: an inner loop must not move BatchNorm statistics."""
    was = {m: m.training for m in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for m, mode in was.items():
            m.training = mode
