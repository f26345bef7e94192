"""Croce and Hein 2020, arXiv 1907.02044: FAB (Algorithm 1), aimed at classes, with the authors' settings.

Each step linearises z_t - z_y at u, moves u and x onto the hyperplane where it is 0 (the nearest points of it in the box, overshot
by eta = 1.05) and takes a mean of the two, with a weight of at most 0.1 for x's; a misclassified point is drawn back to x by beta = 0.9.
FAB looks for the nearest misclassified point; asked whether there is one within eps, a run ends with the first.
Not a call of `inner.maximise`: nothing is climbed.
"""

from dataclasses import dataclass
from math import inf

import torch
from torch import nn

from kdiga.attacks.packing import Runs, first_of, packed, right
from kdiga.losses import input_gradient, norm
from kdiga.types import Images, Labels, Outcomes, PerSample, Threat

ETA, ALPHA, BETA = 1.05, 0.1, 0.9


@dataclass
class Run:
    """One sample aimed at one class; `row` is the sample's position in the batch."""

    x: Images
    y: Labels
    row: Labels
    target: Labels
    u: Images


def approach(
    model: nn.Module, x: Images, y: Labels, row: Runs, target: Runs, threat: Threat, *, steps: int
) -> tuple[Images, Outcomes]:
    """For each of x a misclassified point within eps on one of its runs, if any was met, and whether."""
    found, broken = x.clone(), torch.zeros_like(y, dtype=torch.bool)
    s = Run(x[row], y[row], row, target, x[row])
    for _ in range(steps):
        u = s.u.requires_grad_()
        z = model(u)
        gap = (z.gather(1, s.target[:, None]) - z.gather(1, s.y[:, None]))[:, 0]
        u, w = u.detach(), input_gradient(gap, u)
        u = _step(u, s.x, w, gap.detach().to(w), threat.norm)
        with torch.no_grad():
            wrong = ~right(model(u), s.y)
        hit = first_of(s.row, wrong & (norm(u - s.x, threat.norm) <= threat.eps), len(x))
        found[s.row[hit]], broken[s.row[hit]] = u[hit], True
        if broken[s.row].all():
            break
        s.u = torch.where(wrong[:, None, None, None], s.x + BETA * (u - s.x), u)
        s = packed(s, ~broken[s.row])
    return found, broken


def _step(u: Images, x: Images, w: Images, gap: PerSample, p: float) -> Images:
    at_x = gap + (w * (x - u)).flatten(1).sum(1)
    du, dx = onto_plane(torch.cat((u, x)), torch.cat((w, w)), torch.cat((gap, at_x)), p).chunk(2)
    near, far = norm(du, p).clamp_min(1e-8), norm(dx, p).clamp_min(1e-8)
    alpha = (near / (near + far)).clamp_max(ALPHA)[:, None, None, None]
    return ((1 - alpha) * (u + ETA * du) + alpha * (x + ETA * dx)).clamp(0, 1)


def onto_plane(u: Images, w: Images, value: PerSample, p: float) -> Images:
    """The shortest d, in the l_p norm, with value + w . d = 0 and u + d in [0, 1]; as far as the box lets it where there is none.

    d_i = -sign(value w_i) min(t v_i, room_i), with v_i = 1 for l-inf and |w_i| for l2 and room_i the way to the wall. What that gains,
    sum_i |w_i| min(t v_i, room_i), is piecewise linear and concave in t: Newton's method from below ends at |value| after a few steps.
    """
    u, way, size = u.flatten(1), -(value[:, None] * w.flatten(1)).sign(), w.flatten(1).abs()
    room, speed, goal = torch.where(way > 0, 1 - u, u), torch.ones_like(size) if p == inf else size, value.abs()
    rate = size * speed
    t = goal / rate.sum(1).clamp_min(1e-30)
    for _ in range(40):
        length = torch.minimum(t[:, None] * speed, room)
        missing = goal - torch.einsum("bi,bi->b", size, length)
        slope = torch.einsum("bi,bi->b", rate, (length < room).to(rate))
        short = (missing > 1e-6 * goal) & (slope > 0)
        if not short.any():
            break
        t = torch.where(short, t + missing / slope.clamp_min(1e-30), t)
    return (way * length).view(w.shape)
