"""Huang et al. 2023, CVPR (not on arXiv) [huang2023adaad]: AdaAD with the introspection of IAD, AdaIAD.

    x' = argmax_{u in ball(x)} KL(p_t(u) || p_s(u))      from x + start_noise N(0, 1)
    L  = T^2 KL(softmax(f_t(x') / T) || softmax(f_s(x') / T))
       + (1 - a_i) KL(p_s(x) || p_s(x'))                 from progress = `begin` on,    a_i = p_t(y | x')^beta

Unlike IAD's (Zhu et al. 2022, arXiv 2106.04928) the target of the first term is the teacher at x'; for the second term see `iad`.

Where this differs from the authors' code: T is 1, as in AdaAD and IAD, where their script's default, which their published command leaves
as it is, is 30 (that of ARD); forwards at x before `begin` are left out, and so is their cross-entropy term, of weight 0 by default.
Like theirs, the first term is not multiplied by a_i, p_s(x) is not detached, and the attack sees the student in evaluation mode.
"""

import torch
from torch import nn

from kdiga.losses import kl
from kdiga.objectives.iad import introspection
from kdiga.objectives.rslad import most_divergent
from kdiga.options import Count, Positive, Share, Weight
from kdiga.types import Batch, Terms, Threat


def adaiad(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    temperature: Positive = 1.0,
    beta: Weight = 0.1,
    begin: Share = 0.3,
    steps: Count = 10,
    step_size: Positive | None = None,
    start_noise: Weight = 0.001,
) -> Terms:
    """Terms: `kd`, and from `begin` on `introspection`. `step_size` in image units, see `inner.maximise` for its default."""
    attacked = most_divergent(student, teacher, batch.x, threat, steps=steps, step_size=step_size, start_noise=start_noise)
    with torch.no_grad():
        target = teacher(attacked)
    z = student(attacked)
    terms = {"kd": kl(z, target, temperature)}
    if progress >= begin:
        terms["introspection"] = introspection(z, student(batch.x), target, batch.y, beta)
    return terms
