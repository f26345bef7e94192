"""Zi et al. 2021, arXiv 2108.07969: robust soft label adversarial distillation (RSLAD).

    x' = argmax_{u in ball(x)} KL(p_t(x) || p_s(u))      from x + start_noise N(0, 1)
    L  = adv_weight KL(p_t(x) || p_s(x')) + clean_weight KL(p_t(x) || p_s(x))

The teacher's clean prediction, computed once, takes the place of the label everywhere, in the attack too; labels are not used.

Where this differs from the authors' code: the KL is summed over classes. Theirs is divided by their number, and for CIFAR-100
multiplied by ten, which makes their loss a tenth of ours on both. Like theirs, the attack sees the student in evaluation mode.
"""

import torch
from torch import Tensor, nn

from kdiga.inner import eval_mode, maximise
from kdiga.losses import kl
from kdiga.options import Count, Positive, Weight
from kdiga.types import Batch, Images, Terms, Threat


def rslad(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    adv_weight: Weight = 5 / 6,
    clean_weight: Weight = 1 / 6,
    steps: Count = 10,
    step_size: Positive | None = None,
    start_noise: Weight = 0.001,
) -> Terms:
    """Terms: `adv`, and `clean` unless clean_weight is 0. `step_size` in image units, see `inner.maximise` for its default."""
    with torch.no_grad():
        target = teacher(batch.x)
    attacked = most_divergent(student, target, batch.x, threat, steps=steps, step_size=step_size, start_noise=start_noise)
    terms = {"adv": adv_weight * kl(student(attacked), target)}
    if clean_weight:
        terms["clean"] = clean_weight * kl(student(batch.x), target)
    return terms


def most_divergent(
    student: nn.Module,
    target: nn.Module | Tensor,
    x: Images,
    threat: Threat,
    *,
    steps: int,
    step_size: float | None,
    start_noise: float,
) -> Images:
    """argmax over u in the ball of KL(target || student at u); `target` is fixed logits or a network, which then follows u."""
    with eval_mode(student):
        return maximise(
            lambda u: kl(student(u), target(u) if isinstance(target, nn.Module) else target),
            x,
            threat,
            steps=steps,
            step_size=step_size,
            start=x + start_noise * torch.randn_like(x),
        )
