"""KDIGA (arXiv 2110.12072) in the scaling of the first author's public code of October 2021, to repeat published settings.

    l_M = mean over the batch of CE(f_M(u), y),   G_M = grad_u l_M for the whole batch,   B samples, C classes
    L   = alpha T^2 KLmean(softmax(f_t(u) / T) || softmax(f_s(u) / T)) + (1 - alpha) l_s + (gamma / B) || G_s - G_t ||_2

KLmean divides by B C; the norm is one number for the whole batch. Against `kdiga` the alignment is about B^1.5 times weaker:
gamma / B of a norm of mean-reduced gradients is gamma B^-1.5 times the root mean square of the per-sample norms (gamma / 1448 at B = 128).
`start="uniform"` is the code's `kdiga_rs`: every term at x + U(-eps, eps), which is not clipped to [0, 1] there nor here.
"""

from math import inf
from typing import Literal

import torch
from torch import nn

from kdiga.errors import BadInput
from kdiga.losses import cross_entropy, input_gradient, kl
from kdiga.options import Positive, Share, Weight
from kdiga.types import Batch, Terms, Threat


def kdiga_author(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    progress: float,
    *,
    threat: Threat | None = None,
    alpha: Share = 0.5,
    temperature: Positive = 1.0,
    gamma: Weight = 1.0,
    start: Literal["clean", "uniform"] = "clean",
) -> Terms:
    """Terms: `ce`, `kd` per sample, and `iga`, the batch's one value repeated so that its mean is the value.
    So its terms depend on how the data are cut into batches."""
    u = batch.x.detach()
    if start == "uniform":
        if threat is None or threat.norm != inf:
            raise BadInput("kdiga_author with start='uniform' adds uniform noise of the l-inf ball and needs an l-inf threat")
        u = u + threat.eps * (2 * torch.rand_like(u) - 1)
    u.requires_grad_()
    size, target, z = len(u), teacher(u), student(u)
    own, classes = cross_entropy(z, batch.y), z.shape[1]
    g_teacher = input_gradient(cross_entropy(target, batch.y) / size, u)
    g_student = input_gradient(own / size, u, create_graph=True)
    return {
        "ce": (1 - alpha) * own,
        "kd": alpha / classes * kl(z, target.detach(), temperature),
        "iga": gamma / size * torch.linalg.vector_norm(g_student - g_teacher) * torch.ones_like(own),
    }
