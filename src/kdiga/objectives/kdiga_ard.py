"""Shao, Yi, Chen and Hsieh 2021, arXiv 2110.12072: KDIGA on top of ARD, gradients aligned at the clean (_c) or the attacked image (_a).

    x' = argmax_{u in ball(x)} CE(f_s(u), y)      by `steps` projected ascent steps from a random point of the ball
    L  = ce_weight  CE(f_s(x), y)
       + kd_weight  T^2 KL(softmax(f_t(v) / T) || softmax(f_s(x') / T))
       + iga_weight || grad_u CE(f_s(u), y) - grad_u CE(f_t(u), y) ||_2

u = x in `kdiga_ard_c`, u = x' in `kdiga_ard_a`: a reading of the names of the first author's checkpoints, where the suffix of the former says
"clean gradient". v = x' (`target="attacked"`, the default and what the author's code does) or v = x (`"clean"`, ARD's own).
The student takes one forward at x and one at x', in training mode; that at u gives the gradient too. While ce_weight is 0,
kdiga_ard_a does not show x to the student.

Where this differs from the author's code: as `kdiga`, so the gradients are of summed losses, one norm per sample, and the KL is
summed over classes; the attack sees the student in evaluation mode; its step is that of `inner.maximise`, not 1.6/255. The other weights are those
of the author's run names. iga_weight = 1 is the default of `kdiga` and that of the author's later code with norms per sample; it was not
tuned here. The gamma = 10 of the run names multiplies another quantity, about 1448 times smaller at B = 128.
"""

from typing import Literal

import torch
from torch import nn

from kdiga.losses import cross_entropy, input_gradient, kl, norm
from kdiga.objectives.ard import label_attack
from kdiga.options import Count, Positive, Weight
from kdiga.types import Batch, Images, Terms, Threat

Point = Literal["clean", "attacked"]


def kdiga_ard_c(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    ce_weight: Weight = 0.5,
    kd_weight: Weight = 0.5,
    iga_weight: Weight = 1.0,
    temperature: Positive = 1.0,
    target: Literal["attacked", "clean"] = "attacked",
    steps: Count = 10,
    step_size: Positive | None = None,
) -> Terms:
    """Terms: `kd`, `iga` and, unless ce_weight is 0, `ce`. `step_size` in image units, see `inner.maximise` for its default."""
    attacked = label_attack(student, batch, threat, steps=steps, step_size=step_size)
    return _aligned("clean", student, teacher, batch, attacked, target, ce_weight, kd_weight, iga_weight, temperature)


def kdiga_ard_a(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    ce_weight: Weight = 0.5,
    kd_weight: Weight = 0.5,
    iga_weight: Weight = 1.0,
    temperature: Positive = 1.0,
    target: Literal["attacked", "clean"] = "attacked",
    steps: Count = 10,
    step_size: Positive | None = None,
) -> Terms:
    """Terms: `kd`, `iga` and, unless ce_weight is 0, `ce`. `step_size` in image units, see `inner.maximise` for its default."""
    attacked = label_attack(student, batch, threat, steps=steps, step_size=step_size)
    return _aligned("attacked", student, teacher, batch, attacked, target, ce_weight, kd_weight, iga_weight, temperature)


def _aligned(
    point: Point,
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    attacked: Images,
    target: Point,
    ce_weight: float,
    kd_weight: float,
    iga_weight: float,
    temperature: float,
) -> Terms:
    """All terms, with the gradients aligned at `point`; each network is evaluated once at each image that is needed."""
    x: dict[Point, Images] = {"clean": batch.x, "attacked": attacked}
    u = x[point] = x[point].detach().requires_grad_()
    z, z_teacher = {point: student(u)}, {point: teacher(u)}
    g_student = input_gradient(cross_entropy(z[point], batch.y), u, create_graph=True)
    g_teacher = input_gradient(cross_entropy(z_teacher[point], batch.y), u)
    if point == "clean":
        z["attacked"] = student(attacked)
    elif ce_weight:
        z["clean"] = student(batch.x)
    if target != point:
        with torch.no_grad():
            z_teacher[target] = teacher(x[target])
    terms = {
        "kd": kd_weight * kl(z["attacked"], z_teacher[target].detach(), temperature),
        "iga": iga_weight * norm(g_student - g_teacher, 2.0),
    }
    if ce_weight:
        terms["ce"] = ce_weight * cross_entropy(z["clean"], batch.y)
    return terms
