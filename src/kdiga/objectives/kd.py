"""Hinton et al. 2015, arXiv 1503.02531: knowledge distillation.

    L = ce_weight CE(f_s(x), y) + kd_weight T^2 KL(softmax(f_t(x) / T) || softmax(f_s(x) / T))

The KL is summed over classes. Published robust-distillation code averages it over classes too (PyTorch's default), which makes
its weight 10 times smaller on ten classes and 100 times on a hundred. Clean images only, no attack.
"""

import torch
from torch import nn

from kdiga.losses import cross_entropy, kl
from kdiga.options import Positive, Weight
from kdiga.types import Batch, Terms


def kd(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    progress: float,
    *,
    temperature: Positive = 4.0,
    ce_weight: Weight = 0.5,
    kd_weight: Weight = 0.5,
) -> Terms:
    """Terms: `ce`, `kd`. The teacher is evaluated as it is: the caller has put it in evaluation mode."""
    with torch.no_grad():
        target = teacher(batch.x)
    z = student(batch.x)
    return {"ce": ce_weight * cross_entropy(z, batch.y), "kd": kd_weight * kl(z, target, temperature)}
