"""Wu et al. 2023, arXiv 2305.14700: adversarial function matching (AdvFunMatch), AdaAD's objective under strong augmentation.

    m  = r x + (1 - r) x[partner]                        r uniform in [0, 1] and a random partner in the batch, for each sample
    x' = argmax_{u in ball(m)} KL(p_t(u) || p_s(u))      from m + start_noise N(0, 1)
    L  = KL(p_t(x') || p_s(x'))

Teacher and student see the same image, so that any image will do: labels are not used, and the ball is around the mixed image.

The paper's list of augmentations is not known to us (its abstract names AutoAugment as an example). The one here is our choice, the mixup of
Beyer et al. 2022 (arXiv 2106.05237), function matching without attacks; a partner makes a sample's term depend on its batch.
"""

from dataclasses import replace

import torch
from torch import nn

from kdiga.objectives.adaad import adaad
from kdiga.options import Count, Positive, Weight
from kdiga.types import Batch, Terms, Threat


def advfunmatch(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    steps: Count = 10,
    step_size: Positive | None = None,
    start_noise: Weight = 0.001,
) -> Terms:
    """Terms: `adv`. `step_size` in image units, see `inner.maximise` for its default."""
    ratio = torch.rand_like(batch.x[:, :1, :1, :1])
    partner = torch.randperm(len(batch.x), device=batch.x.device)
    mixed = replace(batch, x=ratio * batch.x + (1 - ratio) * batch.x[partner])
    return adaad(student, teacher, mixed, progress, threat=threat, steps=steps, step_size=step_size, start_noise=start_noise)
