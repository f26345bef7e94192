"""Zhao et al. 2022, ECCV (not on arXiv) [zhao2022mtard]: multi-teacher adversarial robustness distillation (MTARD).

    x' = argmax_{u in ball(x)} CE(f_s(u), y)      from x + start_noise N(0, 1)
    a  = KL(p_t(x') || p_s(x')),    n = KL(p_n(x) || p_s(x))        f_t the robust teacher, f_n the standard-trained one
    L  = (1 - w) a + w n
    w <- w + weight_lr (n / n_1 / (a / a_1 + n / n_1) - w)          before it is used; batch means; a_1, n_1 those of the first step

The branch that has learnt less since the first step gets more weight. `memory` holds `first_adv`, `first_clean` (a_1 and n_1) and `w`,
which starts at 0.5. The temperatures of the later B-MTARD (arXiv 2306.16170), which equalise the teachers' entropies, are not here.

Where this differs from the authors' code: the KL is exact and summed over classes (theirs adds 1e-5 to the target inside the logarithm,
and is divided by the number of classes, which w does not notice); weight_lr stays, where theirs falls with the learning rate.
"""

import torch
from torch import Tensor, nn

from kdiga.inner import eval_mode, maximise
from kdiga.losses import cross_entropy, kl
from kdiga.options import Count, Positive, Share, Weight
from kdiga.types import Batch, PerSample, Terms, Threat


def mtard(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    standard_teacher: nn.Module,
    memory: dict[str, Tensor],
    weight_lr: Share = 0.025,
    steps: Count = 10,
    step_size: Positive | None = None,
    start_noise: Weight = 0.001,
) -> Terms:
    """Terms: `adv`, `clean`. `step_size` in image units, see `inner.maximise` for its default."""
    start = batch.x + start_noise * torch.randn_like(batch.x)
    with eval_mode(student):
        attacked = maximise(
            lambda u: cross_entropy(student(u), batch.y), batch.x, threat, steps=steps, step_size=step_size, start=start
        )
    with torch.no_grad():
        robust, standard = teacher(attacked), standard_teacher(batch.x)
    adv, clean = kl(student(attacked), robust), kl(student(batch.x), standard)
    w = _clean_share(adv.detach(), clean.detach(), memory, weight_lr)
    return {"adv": (1 - w) * adv, "clean": w * clean}


def _clean_share(adv: PerSample, clean: PerSample, memory: dict[str, Tensor], weight_lr: float) -> Tensor:
    """w after this step's update, which `memory` remembers; a loss of 0 at the first step divides nothing."""
    a, n = adv.mean(), clean.mean()
    a = a / memory.setdefault("first_adv", a).clamp_min(1e-12)
    n = n / memory.setdefault("first_clean", n).clamp_min(1e-12)
    w = memory.get("w", torch.full_like(n, 0.5))
    memory["w"] = w + weight_lr * (n / (a + n).clamp_min(1e-12) - w)
    return memory["w"]
