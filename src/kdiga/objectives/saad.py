"""Lee and Chung 2026, arXiv 2512.10275: sample-wise adaptive adversarial distillation (SAAD; SAAD-C with clean_weight above 0).

    c(u) = f_t(x), its entry y raised by <grad_x f_t(x)_y, u - x>                   one teacher gradient, at x, for all steps
    x'   = argmax_{u in ball(x)} KL(softmax(c(u)) || p_s(u))                        from x + start_noise N(0, 1)
    w    = entropy_scale (H - min H),    H the entropy of p_t(x') in nats           min over the batch; w carries no gradient
    L   = w (KL(p_t(x') || p_s(x')) + progress igdm_weight IGDM(x')) + clean_weight (1 - w / max w) KL(p_t(x) || p_s(x))

IGDM is the term of `igdm`. A confident teacher at the student's x' is one whom x' did not fool: such samples count less, the most
confident one in the batch not at all, so terms depend on how the data are cut into batches. For SAAD-C the authors give clean_weight
0.2 (CIFAR-10) and 0.5 (CIFAR-100, Tiny-ImageNet); igdm_weight 1, and for those two 20 and 10 in the paper, 10 in the code.

As in the authors' code: only the true class's logit is linearised, and the attack's gradient flows through c. Where this differs: the
mirror image in IGDM is clipped to [0, 1]; the student sees x only if clean_weight is not 0. Their averaging of the weights over late
epochs is no part of an objective; the training loop's `ema` is a relative of it.
"""

import torch
from torch import nn

from kdiga.inner import eval_mode, maximise
from kdiga.losses import input_gradient, kl
from kdiga.objectives.igdm import gap
from kdiga.options import Count, Positive, Weight
from kdiga.types import Batch, Images, Logits, Terms, Threat


def saad(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    entropy_scale: Weight = 5.0,
    igdm_weight: Weight = 1.0,
    clean_weight: Weight = 0.0,
    steps: Count = 10,
    step_size: Positive | None = None,
    start_noise: Weight = 0.001,
) -> Terms:
    """Terms: `adv`, `igdm`, and `clean` unless clean_weight is 0. `step_size` in image units, see `inner.maximise` for its default."""
    x = batch.x.detach().requires_grad_()
    clean: Logits = teacher(x)
    slope = input_gradient(clean.gather(1, batch.y[:, None])[:, 0], x)
    clean, label = clean.detach(), nn.functional.one_hot(batch.y, clean.shape[1])

    def linearised(u: Images) -> Logits:
        return clean + label * (slope * (u - batch.x)).flatten(1).sum(1, keepdim=True)

    start = batch.x + start_noise * torch.randn_like(batch.x)
    with eval_mode(student):
        attacked = maximise(lambda u: kl(student(u), linearised(u)), batch.x, threat, steps=steps, step_size=step_size, start=start)
    with torch.no_grad():
        target = teacher(attacked)
        log_p = target.log_softmax(1, torch.promote_types(target.dtype, torch.float32))
        entropy = -(log_p.exp() * log_p).sum(1)
        rank = entropy - entropy.min()
    w, z = entropy_scale * rank, student(attacked)
    terms = {
        "adv": w * kl(z, target),
        "igdm": progress * igdm_weight * w * gap(student, teacher, batch.x, attacked, z, target),
    }
    if clean_weight:
        terms["clean"] = clean_weight * (1 - rank / rank.max().clamp_min(1e-8)) * kl(student(batch.x), clean)
    return terms
