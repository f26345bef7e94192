"""Huang et al. 2023, CVPR (not on arXiv) [huang2023adaad]: adaptive adversarial distillation (AdaAD).

    x' = argmax_{u in ball(x)} KL(p_t(u) || p_s(u))      from x + start_noise N(0, 1)
    L  = adv_weight KL(p_t(x') || p_s(x')) + clean_weight KL(p_t(x) || p_s(x))

The attack looks for the point of greatest disagreement: the teacher is evaluated at every step, and the gradient flows through both networks.
`teacher_in_attack=False` keeps the attack's target at p_t(x), as RSLAD's: several times cheaper, and weaker in the measurements of the
authors of IGDM. The authors' mixture weight alpha is adv_weight = alpha, clean_weight = 1 - alpha, with alpha = 1.

Where this differs from the authors' code: the KL is summed over classes (theirs is divided by their number for CIFAR-10 and not for
CIFAR-100); the clean forwards are not taken while clean_weight is 0. Like theirs, the attack sees the student in evaluation mode.
"""

import torch
from torch import nn

from kdiga.losses import kl
from kdiga.objectives.rslad import most_divergent
from kdiga.options import Count, Positive, Weight
from kdiga.types import Batch, Terms, Threat


def adaad(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    adv_weight: Weight = 1.0,
    clean_weight: Weight = 0.0,
    teacher_in_attack: bool = True,
    steps: Count = 10,
    step_size: Positive | None = None,
    start_noise: Weight = 0.001,
) -> Terms:
    """Terms: `adv`, and `clean` unless clean_weight is 0. `step_size` in image units, see `inner.maximise` for its default."""
    with torch.no_grad():
        towards = teacher if teacher_in_attack else teacher(batch.x)
    attacked = most_divergent(student, towards, batch.x, threat, steps=steps, step_size=step_size, start_noise=start_noise)
    with torch.no_grad():
        target = teacher(attacked)
    terms = {"adv": adv_weight * kl(student(attacked), target)}
    if clean_weight:
        with torch.no_grad():
            target = teacher(batch.x)
        terms["clean"] = clean_weight * kl(student(batch.x), target)
    return terms
