"""Zhu et al. 2022, arXiv 2106.04928: introspective adversarial distillation, the variant on top of ARD (IAD-I).

    x' = argmax_{u in ball(x)} CE(f_s(u), y)      by `steps` projected ascent steps from a random point of the ball
    L  = T^2 KL(softmax(f_t(x) / T) || softmax(f_s(x') / T))
       + (1 - a_i) KL(p_s(x) || p_s(x'))          from progress = `begin` on,    a_i = p_t(y | x')^beta

The less the teacher believes in the label at the student's x', the more the student listens to its own clean prediction. Before
`begin` (the authors' epoch 60 of 200) the second term and its forward are left out.

As in the authors' code: the first term is not multiplied by a_i, although the text suggests a convex mixture; p_s(x) is not detached, so
that both branches learn; the second KL and a_i are at temperature 1 whatever T is; a_i is a constant. Unlike it: the attack sees
the student in evaluation mode, and the clean forward is taken only when used. Its cross-entropy term, of weight 0 by default, is left out.
"""

import torch
from torch import nn

from kdiga.losses import cross_entropy, kl
from kdiga.objectives.ard import label_attack
from kdiga.options import Count, Positive, Share, Weight
from kdiga.types import Batch, Labels, Logits, PerSample, Terms, Threat


def iad(
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
) -> Terms:
    """Terms: `kd`, and from `begin` on `introspection`. `step_size` in image units, see `inner.maximise` for its default."""
    attacked = label_attack(student, batch, threat, steps=steps, step_size=step_size)
    with torch.no_grad():
        target = teacher(batch.x)
    z = student(attacked)
    terms = {"kd": kl(z, target, temperature)}
    if progress >= begin:
        with torch.no_grad():
            guide = teacher(attacked)
        terms["introspection"] = introspection(z, student(batch.x), guide, batch.y, beta)
    return terms


def introspection(attacked: Logits, clean: Logits, guide: Logits, y: Labels, beta: float) -> PerSample:
    """(1 - p^beta) KL(student at x || student at x'), p the probability of the label by `guide`, the teacher's logits at x'."""
    return -torch.expm1(-beta * cross_entropy(guide, y)) * kl(attacked, clean)
