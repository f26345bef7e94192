"""Weng et al. 2018, arXiv 1801.10578: CLEVER, an estimate of the distance to the nearest misclassified image.

    g_j(u) = z_y(u) - z_j(u)                                  for a wrong class j
    m_i    = max over `samples` points u of batch i of || grad g_j(u) ||_*, i = 1 .. `batches`
    a      = location of the reverse Weibull distribution fitted to the m_i: an estimate of the local Lipschitz constant of g_j
    score  = min( g_j(x) / a, radius )                        0 where x is misclassified or a gradient is not finite

u is drawn uniformly from the ball of `radius` and then clipped to [0, 1]; || . ||_* is dual to the threat's norm. No attack is made, and
nothing is certified: where gradients are masked the points see none of the steep places, and the score exceeds the true distance.

The paper draws 500 batches of 1024 points, from a ball of l2 radius 5. Here it is 50 of 64, as the score is for whole test sets, and a
radius of five times eps. The fit is by maximum likelihood with a shape of at most 10: without a limit, maxima with a light tail fit
best with a location at infinity.
"""

from math import inf
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kdiga.attacks.guard import check_range, guarded
from kdiga.inner import dual_norm, random_point
from kdiga.losses import input_gradient
from kdiga.options import Count, Positive
from kdiga.types import Images, Labels, Logits, PerSample, Threat

SHAPE = 10.0  # the largest shape of a fit


def clever(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: Threat,
    *,
    batches: Count = 50,
    samples: Count = 64,
    radius: Positive | None = None,
    target: Literal["runner-up", "every"] = "runner-up",
) -> PerSample:
    """The CLEVER score: an estimate, in image units, of the distance to the nearest misclassified image; Weng et al. 2018, arXiv 1801.10578.

    `target`: the wrong class with the highest logit at x, or the least score of all wrong classes, which takes k - 1 times as long.
    `radius` is the largest score; its default is 5 eps (l-inf: at most 1).
    """
    check_range(x)
    if radius is None:
        radius = min(5 * threat.eps, 1.0 if threat.norm == inf else inf)
    ball = Threat(norm=threat.norm, eps=radius)
    with guarded(model, x.device):
        x, y = x.detach().clone(), y.clone()
        with torch.no_grad():
            wrong = model(x).scatter(1, y[:, None], -inf)
        classes = wrong.topk(1 if target == "runner-up" else wrong.shape[1] - 1).indices
        scores = [_score(model, x, y, j, ball, batches, samples) for j in classes.unbind(1)]
    return torch.stack(scores).amin(0)


def _score(model: nn.Module, x: Images, y: Labels, j: Labels, ball: Threat, batches: int, samples: int) -> PerSample:
    def lead(u: Images) -> PerSample:
        z: Logits = model(u)
        return (z.gather(1, y[:, None]) - z.gather(1, j[:, None]))[:, 0]

    def slope() -> PerSample:
        u = random_point(x, ball).requires_grad_()
        return dual_norm(input_gradient(lead(u), u), ball)

    maxima = torch.stack([torch.stack([slope() for _ in range(samples)]).amax(0) for _ in range(batches)])
    steepest = x.new_tensor([location(m) if np.isfinite(m).all() else inf for m in maxima.double().cpu().numpy().T])
    with torch.no_grad():
        here = lead(x)
    return torch.where((here > 0) & steepest.isfinite(), (here / steepest).clamp_max(ball.eps), 0.0)


def location(maxima: NDArray[np.float64]) -> float:
    """The end of the reverse Weibull distribution that fits the maxima best; at least the largest of them."""
    from scipy.stats import weibull_max

    top, spread = float(maxima.max()), float(maxima.std())
    if spread <= 1e-5 * top:
        return top
    z = (maxima - top) / spread
    shape, end, _ = weibull_max.fit(z, 2.0)
    if shape > SHAPE:
        _, end, _ = weibull_max.fit(z, f0=SHAPE)
    return top + max(float(end), 0.0) * spread
