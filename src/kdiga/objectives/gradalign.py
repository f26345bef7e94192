"""Andriushchenko and Flammarion 2020, arXiv 2007.02617: GradAlign, one-step training with aligned input gradients.

    g  = grad_x CE(f_s(x), y)                                      a constant
    x' = project(x + eps * direction(g))
    L  = CE(f_s(x'), y) + align_weight (1 - cos(g, grad_u CE(f_s(u), y)))       u drawn uniformly from the ball around x

The cosine is taken per sample, in the authors' code too. As there, one gradient at x serves attack and term, and is detached: the
term is differentiated a second time through the gradient at u only; and all three forwards are in training mode, so that BatchNorm
treats both gradients alike. The code's step of 1.25 eps ends, projected, at the same x'. 0.2 is its weight at 8/255 on CIFAR-10; it
grows there with eps, as 0.02 * 10^(255 eps / 8).

Where this differs: u stays in [0, 1], and a sample whose gradient vanishes counts as aligned (theirs leave the mean). No teacher.
"""

from torch import nn

from kdiga.inner import maximise, random_point
from kdiga.losses import angle, cross_entropy, input_gradient
from kdiga.options import Weight
from kdiga.types import Batch, Terms, Threat


def gradalign(
    student: nn.Module,
    teacher: nn.Module | None,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    align_weight: Weight = 0.2,
) -> Terms:
    """Terms: `ce` at the attacked images, `align` (one minus the cosine, times align_weight)."""
    x, u = batch.x.detach().requires_grad_(), random_point(batch.x, threat).requires_grad_()
    g = input_gradient(cross_entropy(student(x), batch.y), x)
    g_near = input_gradient(cross_entropy(student(u), batch.y), u, create_graph=True)
    attacked = maximise(lambda v: (g * v).flatten(1).sum(1), batch.x, threat, steps=1, start=batch.x)  # of the loss linearised at x
    return {"ce": cross_entropy(student(attacked), batch.y), "align": align_weight * angle(g, g_near)}
