"""Ganz, Kawar and Elad 2023, arXiv 2207.11378: perceptually aligned gradients (PAG), with a robust teacher's gradients as ground truth.

    g(c) = -grad_x CE(f(x), c)                        the direction that makes x more like class c
    L  = CE(f_s(x), y) + pag_weight mean_c (1 - cos(g_s(c), g_t(c)))          over `classes` random classes of each image

Clean images, no attack. 15 is the authors' coefficient 1.5 for a ResNet-18 times the factor 10 in their code; with ten gradients
per CIFAR-10 image they take every class, and so does this wherever there are no more than `classes`. Every class costs one double
backward through the same forward, and the memory for it.

What is ours: the directions g_t. The authors' come from a score model, from class means or from nearest neighbours; a robust
network's input gradients are known to look like its classes, and a teacher is what distillation has. Where this differs from their
code besides: the gradients are taken in evaluation mode, so that each is the image's own. Theirs come from a batch in which every image is
repeated for every class and augmented anew, in training mode, where BatchNorm mixes images and classes.
"""

import torch
from torch import Tensor, nn

from kdiga.inner import eval_mode
from kdiga.losses import angle, cross_entropy
from kdiga.options import Count, Weight
from kdiga.types import Batch, Images, Logits, Terms


def pag(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    progress: float,
    *,
    pag_weight: Weight = 15.0,
    classes: Count = 10,
) -> Terms:
    """Terms: `ce`, `pag` (from 0 to 2, times pag_weight)."""
    x = batch.x.detach().requires_grad_()
    loss = cross_entropy(student(batch.x), batch.y)  # first: it moves the statistics that the gradients below are taken with
    with eval_mode(student):
        z, target = student(x), teacher(x)
    chosen = torch.rand_like(z.detach()).argsort(1)[:, :classes]  # in each row different classes
    angles = [angle(_slope(z, x, c, create_graph=True), _slope(target, x, c, create_graph=False)) for c in chosen.unbind(1)]
    return {"ce": loss, "pag": pag_weight * torch.stack(angles).mean(0)}


def _slope(z: Logits, x: Images, c: Tensor, *, create_graph: bool) -> Images:
    """The gradient of the cross-entropy with class c; z's graph is kept for the next class."""
    return torch.autograd.grad(cross_entropy(z, c).sum(), x, create_graph=create_graph, retain_graph=True)[0]
