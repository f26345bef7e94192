"""A box of images through the steps of a network, and back: interval bounds (IBP) and linear ones (CROWN)."""

from math import inf

import torch
from jaxtyping import Float
from torch import Tensor

from kdiga.bounds.kinds import Affine, Bend, Sum
from kdiga.bounds.record import Step, Steps
from kdiga.errors import BadInput
from kdiga.types import Images, Labels, Logits, PerSample, Threat

Box = tuple[Tensor, Tensor]  # the least and the largest value of each entry
Boxes = dict[int, Box]  # by the place of the step that they are of


def box(x: Images, threat: Threat) -> Box:
    """The l-inf ball around each image, cut to [0, 1]. Raises BadInput for another norm."""
    if threat.norm != inf:
        raise BadInput("bound propagation is for linf threats: an l2 ball has certificates by smoothing-radius")
    return (x - threat.eps).clamp(0, 1), (x + threat.eps).clamp(0, 1)


def intervals(steps: Steps, images: Box) -> Boxes:
    """The box that holds what each step returns: Gowal et al. 2018, arXiv 1810.12715, eqs. 6 and 7."""
    found = {0: images}
    for place in range(1, len(steps)):
        step = steps[place]
        low, high = found[step.read]
        if isinstance(step.kind, Affine):
            middle, radius = step.kind.apply((low + high) / 2), step.kind.spread((high - low) / 2)
            found[place] = middle - radius, middle + radius
        elif isinstance(step.kind, Bend):
            f, lowest = step.kind.apply, step.kind.lowest
            ends = f(low), f(high)
            least = ends[0] if lowest == -inf else f(torch.minimum(low.clamp_min(lowest), high))
            found[place] = least, torch.maximum(*ends)
        else:
            other = found[step.other]
            found[place] = low + other[0], high + other[1]
    return found


def margins(steps: Steps, found: Boxes, y: Labels, *, relax: bool) -> Logits:
    """Lower bounds of z_y - z_j for every class j, over the box whose `intervals` are `found`; 0 for j = y.

    The margins are carried back through everything that is linear: the last layers are merged with them and lose nothing (Gowal et al.
    2018, eq. 9, where it is one layer). With `relax` they are also carried back through ReLUs, each between two lines, to the images
    (CROWN-IBP: Zhang et al. 2020, arXiv 1906.06316); else they are bounded by the box of the activation that they meet.
    """
    k = found[len(steps) - 1][0].shape[1]
    unit = torch.eye(k, dtype=found[0][0].dtype, device=y.device)
    rows = (unit[y][:, None] - unit).flatten(0, 1)  # [b k, k]: the coefficients of each margin, image after image
    pending, bound = {len(steps) - 1: rows}, rows.new_zeros(len(rows))
    for place in range(len(steps) - 1, -1, -1):
        if (a := pending.pop(place, None)) is None:
            continue
        step = steps[place]
        if place == 0 or (isinstance(step.kind, Bend) and not relax):
            low, high = (v.repeat_interleave(k, 0) for v in found[place])
            bound = bound + _dot(a.clamp_min(0), low) + _dot(a.clamp_max(0), high)
            continue
        if isinstance(step.kind, Affine):
            a, constant = _through(step.kind, a, found[step.read][0])
            bound = bound + constant
        elif isinstance(step.kind, Bend):
            a, constant = _under(step, a, found[step.read], k)
            bound = bound + constant
        for read in (step.read, step.other) if isinstance(step.kind, Sum) else (step.read,):
            pending[read] = pending[read] + a if read in pending else a
    return bound.view(-1, k)


def _through(step: Affine, a: Tensor, like: Tensor) -> tuple[Tensor, Float[Tensor, "n"]]:
    """<a, step(u)> = <A, u> + c: the pair (A, c). A is the derivative by u, whatever the linear map is."""
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        u = a.new_zeros(len(a), *like.shape[1:]).requires_grad_()
        out = step.apply(u)
        (back,) = torch.autograd.grad(out, u, a, create_graph=create)
    return back, _dot(a, out if create else out.detach())


def _under(step: Step, a: Tensor, before: Box, k: int) -> tuple[Tensor, PerSample]:
    """A linear function of u below <a, relu(u)> where u is in the box `before`: slope u / (u - l) and its intercept from above; from below
    the line through 0 of slope 0 or 1 that leaves the smaller area (arXiv 1811.00866, "adaptive")."""
    if step.name != "relu":
        raise BadInput(f"crown-ibp-margin knows the activation relu only: for '{step.name}' use ibp-margin")
    low, high = before[0].clamp_max(0), before[1].clamp_min(0)
    slope = high / (high - low).clamp_min(torch.finfo(low.dtype).tiny)
    below = (high > -low).to(low.dtype)
    slope, below, low = (v.repeat_interleave(k, 0) for v in (slope, below, low))
    up, down = a.clamp_min(0), a.clamp_max(0)
    return up * below + down * slope, _dot(down, -slope * low)


def _dot(a: Tensor, b: Tensor) -> Float[Tensor, "n"]:
    """The inner product, image by image."""
    return (a * b).flatten(1).sum(1)
