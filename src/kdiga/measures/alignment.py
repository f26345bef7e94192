"""How the input gradients of the loss agree with the teacher's: what KDIGA (Shao et al. 2021, arXiv 2110.12072) trains for.

    g = grad l(u), for the model and for the teacher, at u = x or at the model's own PGD-20 images
    gradient-l2 = || g_model - g_teacher ||_2       gradient-l1 = || g_model - g_teacher ||_1       gradient-cosine = cos(g_model, g_teacher)

eps times the l1 distance (l-inf threats; l2 distance for l2) is the part that alignment has in the transfer bound (docs/theory.md).
"""

from typing import Literal

import torch.nn.functional as F
from torch import nn

from kdiga.attacks.guard import check_range, guarded
from kdiga.attacks.pgd import pgd20
from kdiga.losses import norm
from kdiga.measures.tangent import Loss, tangent
from kdiga.types import Images, Labels, PerSample, Threat

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
    own, other = _gradients(model, teacher, x, y, threat, loss, point)
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
    own, other = _gradients(model, teacher, x, y, threat, loss, point)
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
    """The cosine between the input gradient of the loss and the teacher's; 0 where one of them is 0."""
    own, other = _gradients(model, teacher, x, y, threat, loss, point)
    return F.cosine_similarity(own.flatten(1), other.flatten(1), eps=1e-12)


def _gradients(
    model: nn.Module, teacher: nn.Module, x: Images, y: Labels, threat: Threat, loss: Loss, point: Point
) -> tuple[Images, Images]:
    check_range(x)
    with guarded(model, x.device), guarded(teacher, x.device):
        u = pgd20(model, x, y, threat) if point == "adversarial" else x
        return tangent(model, u, y, loss).gradient, tangent(teacher, u, y, loss).gradient
