"""Moosavi-Dezfooli et al. 2019, arXiv 1811.09716: CURE, training for a loss of small curvature.

    l(u) = CE(f_s(u), y)
    z  = h * eps * direction(grad l(x)), cut so that x + z is in [0, 1]        a constant
    L  = l(x) + curvature_weight || grad l(x + z) - grad l(x) ||_2

One l2 norm per sample; both gradients are differentiated a second time. No inner loop and no adversarial loss.

The paper squares the norm (recalled); the public code does not, nor does this: a squared norm is ruled by the few samples of most
curvature. That code gives z the l2 length 3 and the term the weight 4 on images divided by their standard deviation, about 0.2:
in image units 0.6, which is 0.35 of the length of eps * sign(grad l(x)) at 8/255 on CIFAR-10, and 0.8. It fine-tunes a trained
network, with the term in evaluation mode. Here both gradients are taken in training mode, which lets the forward at x serve the
cross-entropy too and suits training from scratch (see `llr`). No teacher.
"""

from torch import nn

from kdiga.inner import maximise
from kdiga.losses import cross_entropy, input_gradient, norm
from kdiga.options import Share, Weight
from kdiga.types import Batch, Terms, Threat


def cure(
    student: nn.Module,
    teacher: nn.Module | None,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    curvature_weight: Weight = 0.8,
    h: Share = 0.35,
) -> Terms:
    """Terms: `ce`, `curvature` (in nats per image unit). `h` is the length of z in units of eps."""
    x = batch.x.detach().requires_grad_()
    ce = cross_entropy(student(x), batch.y)
    g = input_gradient(ce, x, create_graph=True)
    uphill = g.detach()
    far = maximise(  # x + z: one step up the loss linearised at x
        lambda u: (uphill * u).flatten(1).sum(1), batch.x, threat, steps=1, step_size=h * threat.eps, start=batch.x
    ).requires_grad_()
    g_far = input_gradient(cross_entropy(student(far), batch.y), far, create_graph=True)
    return {"ce": ce, "curvature": curvature_weight * norm(g_far - g, 2.0)}
