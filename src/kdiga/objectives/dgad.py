"""Park and Min 2024, arXiv 2409.01627: dynamic guidance adversarial distillation (DGAD).

    x' = argmax_{u in ball(x)} KL(p_t(u) || p_s(u))      from x + start_noise N(0, 1), as `adaad`
    u  = x where argmax f_t(x) is not y, else x'
    L  = KL(q_t(u) || p_s(u)) + pcr_weight mean_c (p_s(x')_c - p_s(x)_c)^2

q_t is p_t with the probabilities of the label and of the largest class swapped, where they are not the same class. A sample that the
teacher gets wrong without any attack is distilled at the clean image only; the second term keeps the student consistent on all.

Where this differs from the authors' code: for MobileNetV2 a misplaced bracket there multiplies the clean by the attacked divergence (and
halves both), here every student gets the formula; the first term is averaged over the batch, theirs divides by a nominal batch size and
fails on a batch that the teacher gets wrong throughout. Like theirs, the second term is averaged over classes.
"""

import torch
from torch import nn

from kdiga.losses import kl
from kdiga.objectives.rslad import most_divergent
from kdiga.options import Count, Positive, Weight
from kdiga.types import Batch, Labels, Logits, Terms, Threat


def dgad(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    pcr_weight: Weight = 1.0,
    steps: Count = 10,
    step_size: Positive | None = None,
    start_noise: Weight = 0.001,
) -> Terms:
    """Terms: `kd`, `pcr`. `step_size` in image units, see `inner.maximise` for its default."""
    attacked = most_divergent(student, teacher, batch.x, threat, steps=steps, step_size=step_size, start_noise=start_noise)
    with torch.no_grad():
        clean_target, target = teacher(batch.x), teacher(attacked)
    wrong = clean_target.argmax(1) != batch.y
    clean, z = student(batch.x), student(attacked)
    divergence = torch.where(wrong, kl(clean, _corrected(clean_target, batch.y)), kl(z, _corrected(target, batch.y)))
    wide = torch.promote_types(z.dtype, torch.float32)  # under autocast z may be bfloat16
    change = z.softmax(1, wide) - clean.softmax(1, wide)
    return {"kd": divergence, "pcr": pcr_weight * change.pow(2).mean(1)}


def _corrected(target: Logits, y: Labels) -> Logits:
    """The logits with the label's and the largest swapped."""
    label, top = y[:, None], target.argmax(1, keepdim=True)
    return target.scatter(1, label, target.gather(1, top)).scatter(1, top, target.gather(1, label))
