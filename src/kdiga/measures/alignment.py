"""How the input gradients of the loss agree with the teacher's: what KDIGA (Shao et al. 2021, arXiv 2110.12072) trains for.

    g = grad l(u), for the model and for the teacher, at u = x or at the model's own PGD-20 images
    gradient-l2 = || g_model - g_teacher ||_2       gradient-l1 = || g_model - g_teacher ||_1       gradient-cosine = cos(g_model, g_teacher)

eps times the l1 distance (l-inf threats; l2 distance for l2) is the part that alignment has in the transfer bound (docs/theory.md).
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from kdiga.attacks.guard import check_range, guarded
from kdiga.attacks.pgd import pgd20
from kdiga.losses import input_gradient, log_odds, norm
from kdiga.measures.tangent import LOSSES, Loss
from kdiga.types import Images, Labels, Logits, PerSample, Threat

Point = Literal["clean", "adversarial"]


def gradient_l2(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: Threat,
    *,
    teacher: nn.Module,
    loss: Loss = "ce",
    point: Point = "clean",
) -> PerSample:
    """The l2 distance of the input gradient of the loss to the teacher's."""
    own, other = _gradients(model, teacher, x, y, threat, LOSSES[loss], point)
    return norm(own - other, 2.0)


def gradient_l1(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: Threat,
    *,
    teacher: nn.Module,
    loss: Loss = "ce",
    point: Point = "clean",
) -> PerSample:
    """The l1 distance of the input gradient of the loss to the teacher's."""
    own, other = _gradients(model, teacher, x, y, threat, LOSSES[loss], point)
    return norm(own - other, 1.0)


def gradient_cosine(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: Threat,
    *,
    teacher: nn.Module,
    loss: Loss = "ce",
    point: Point = "clean",
) -> PerSample:
    """The cosine between the input gradient of the loss and the teacher's; 0 where one of them is exactly 0.

    The cross-entropy's direction is taken from the log odds, whose gradient has it too and does not vanish, or turn by rounding, where the
    label leads by many logits.
    """
    own, other = _gradients(model, teacher, x, y, threat, log_odds if loss == "ce" else LOSSES[loss], point)
    own, other = own.double(), other.double()
    lengths = norm(own, 2.0) * norm(other, 2.0)
    return ((own * other).flatten(1).sum(1) / torch.where(lengths > 0, lengths, 1.0)).to(x.dtype)


def _gradients(
    model: nn.Module,
    teacher: nn.Module,
    x: Images,
    y: Labels,
    threat: Threat,
    f: Callable[[Logits, Labels], PerSample],
    point: Point,
) -> tuple[Images, Images]:
    check_range(x)
    with guarded(model, x.device), guarded(teacher, x.device):
        u, y = pgd20(model, x, y, threat) if point == "adversarial" else x, y.clone()
        u = u.detach().clone().requires_grad_()
        return input_gradient(f(model(u), y), u), input_gradient(f(teacher(u), y), u)
