"""Zhang et al. 2019, arXiv 1901.08573, eq. 5: TRADES.

    x' = argmax_{u in ball(x)} KL(p_s(x) || p_s(u))      from x + 0.001 N(0, 1)
    L  = CE(f_s(x), y) + beta KL(p_s(x) || p_s(x'))

The authors' code attacks in evaluation mode, as here, and trains both branches (p_s(x) is not detached in the outer loss).
It writes eps 0.031 and step 0.007; here eps is the threat's and the step that of `inner.maximise`. No teacher.
"""

import torch
from torch import nn

from kdiga.inner import eval_mode, maximise
from kdiga.losses import cross_entropy, kl
from kdiga.options import Count, Positive, Weight
from kdiga.types import Batch, Terms, Threat


def trades(
    student: nn.Module,
    teacher: nn.Module | None,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    beta: Weight = 6.0,
    steps: Count = 10,
    step_size: Positive | None = None,
    start_noise: Weight = 0.001,
) -> Terms:
    """Terms: `ce` at the clean images and `kl` between clean and attacked predictions, times beta."""
    with eval_mode(student):
        # detached, not under no_grad: before torch 2.10 autocast cached weights that it had cast there, and the outer loss then taught nothing
        clean = student(batch.x).detach()
        attacked = maximise(
            lambda u: kl(student(u), clean),
            batch.x,
            threat,
            steps=steps,
            step_size=step_size,
            start=batch.x + start_noise * torch.randn_like(batch.x),
        )
    z = student(batch.x)
    return {"ce": cross_entropy(z, batch.y), "kl": beta * kl(student(attacked), z)}
