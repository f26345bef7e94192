"""Rodríguez-Muñoz, Wang and Torralba 2024, arXiv 2409.20139: gradient norm regularisation on clean images.

    g = grad_x CE(f_s(x), y)
    L = ce_weight CE(f_s(x), y) + grad_weight min(1, progress / ramp) eps || g ||_*

|| . ||_* is the norm dual to the threat's, l1 for l-inf and l2 for l2, so eps || g ||_* is what the worst point of the ball adds to a
linear loss: grad_weight has no unit and means the same for any eps. No attack, no teacher, one double backward. It needs a smooth
activation (GELU, SiLU): the authors report that ReLU networks hardly fit it.

The weights are those of the authors' code, which raises the penalty over the first 5 of 83 to 300 epochs (`ramp`: 5 of 100) and starts from
a network trained without it. Where this differs: eps is the threat's (theirs 4/255 for every data set, CIFAR-10 too) and in image units
(theirs is divided by a mean standard deviation, 0.225, for normalised pixels); BatchNorm trains (on CIFAR-10 theirs stays in evaluation
mode).
"""

from torch import nn

from kdiga.inner import dual_norm
from kdiga.losses import cross_entropy, input_gradient
from kdiga.options import Share, Weight
from kdiga.types import Batch, Terms, Threat


def gradnorm(
    student: nn.Module,
    teacher: nn.Module | None,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    ce_weight: Weight = 0.8,
    grad_weight: Weight = 1.2,
    ramp: Share = 0.05,
) -> Terms:
    """Terms: `ce`, `grad` (both in nats)."""
    x = batch.x.detach().requires_grad_()
    loss = cross_entropy(student(x), batch.y)
    g = input_gradient(loss, x, create_graph=True)
    scale = grad_weight * (min(1.0, progress / ramp) if ramp else 1.0) * threat.eps
    return {"ce": ce_weight * loss, "grad": scale * dual_norm(g, threat)}
