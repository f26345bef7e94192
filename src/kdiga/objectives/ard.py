"""Goldblum et al. 2020, arXiv 1905.09747: adversarially robust distillation (ARD).

    x' = argmax_{u in ball(x)} CE(f_s(u), y)      by `steps` projected ascent steps from a random point of the ball
    L  = kd_weight T^2 KL(softmax(f_t(x) / T) || softmax(f_s(x') / T))
       + ce_weight CE(f_s(x), y)

The teacher sees the clean x: its clean soft label supervises the student's attacked prediction. (Some re-implementations show it x'
instead; `kdiga_ard_c` and `_a` offer both.) While ce_weight is 0, the default, x is not shown to the student.

Where this differs from the authors' code: the KL is summed over classes (theirs is divided by their number, which at kd_weight=1 and ce_weight=0
only rescales the loss); the attack sees the student in evaluation mode (theirs trains BatchNorm at every step); their student always
takes a forward at x too, so that its BatchNorm statistics mix x and x' where ours, by default, are of x' alone.
"""

import torch
from torch import nn

from kdiga.inner import eval_mode, maximise, random_point
from kdiga.losses import cross_entropy, kl
from kdiga.options import Count, Positive, Weight
from kdiga.types import Batch, Images, Terms, Threat


def ard(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    ce_weight: Weight = 0.0,
    kd_weight: Weight = 1.0,
    temperature: Positive = 30.0,
    steps: Count = 10,
    step_size: Positive | None = None,
) -> Terms:
    """Terms: `kd`, and `ce` unless ce_weight is 0. `step_size` in image units, see `inner.maximise` for its default."""
    attacked = label_attack(student, batch, threat, steps=steps, step_size=step_size)
    with torch.no_grad():
        target = teacher(batch.x)
    terms = {"kd": kd_weight * kl(student(attacked), target, temperature)}
    if ce_weight:
        terms["ce"] = ce_weight * cross_entropy(student(batch.x), batch.y)
    return terms


def label_attack(student: nn.Module, batch: Batch, threat: Threat, *, steps: int, step_size: float | None) -> Images:
    """The x' of this family: PGD on the student's cross-entropy, from a random point of the ball."""
    with eval_mode(student):
        return maximise(
            lambda u: cross_entropy(student(u), batch.y),
            batch.x,
            threat,
            steps=steps,
            step_size=step_size,
            start=random_point(batch.x, threat),
        )
