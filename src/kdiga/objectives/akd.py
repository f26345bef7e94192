"""Maroto et al. 2022, arXiv 2203.07159: adversarial knowledge distillation (AKD).

    x' = argmax_{u in ball(x)} CE(f_s(u), y)      by `steps` projected ascent steps from a random point of the ball
    L  = kd_weight KL(p_t(x') || p_s(x')) + ce_weight CE(f_s(x'), y)

Adversarial training on a mixture of the labels and the teacher's predictions. The abstract states that much; the formula, with the teacher at
x' and no temperature, is recalled. The paper's weights are not known to us: the even mixture is our choice. The attack
sees the student in evaluation mode.
"""

import torch
from torch import nn

from kdiga.losses import cross_entropy, kl
from kdiga.objectives.ard import label_attack
from kdiga.options import Count, Positive, Weight
from kdiga.types import Batch, Terms, Threat


def akd(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    ce_weight: Weight = 0.5,
    kd_weight: Weight = 0.5,
    steps: Count = 10,
    step_size: Positive | None = None,
) -> Terms:
    """Terms: `ce`, `kd`, both at the attacked images. `step_size` in image units, see `inner.maximise` for its default."""
    attacked = label_attack(student, batch, threat, steps=steps, step_size=step_size)
    with torch.no_grad():
        target = teacher(attacked)
    z = student(attacked)
    return {"ce": ce_weight * cross_entropy(z, batch.y), "kd": kd_weight * kl(z, target)}
