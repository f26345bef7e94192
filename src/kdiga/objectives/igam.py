"""Chan, Tay and Ong 2020, arXiv 1912.05699: input gradient adversarial matching (IGAM), its l2 part.

    u = drawn uniformly from the ball around x,    J = grad_u softmax(f(u))_y           a probability's gradient, not the loss's
    L = CE(f_s(u), y) + igam_weight || J_s - J_t ||_2^2                                 the second term from progress = `begin` on

No attack. The double backward is paid for late in training only: the authors' step 280,000 of 320,000.

What is left out: the discriminator that is to tell J_s from J_t, a network with its own optimiser (weight 2 to 5 in the authors' code),
and the fine-tuning of the teacher's last layer, which a teacher of the same task does not need. Where this differs: one squared norm per
sample, where theirs is summed over the batch, so that its weight depends on the batch size. Their gamma = 10 with 32 images of pixels
from 0 to 255 is igam_weight = 10 * 32 / 255^2 = 0.005 here. J vanishes on samples that a network is sure of.

Gradient matching without attacks should not be believed before AutoAttack: of the same authors' JARN, reported at 15.5 % robust
accuracy on CIFAR-10, it left 0.26 % (RobustBench).
"""

import torch
from torch import nn

from kdiga.inner import random_point
from kdiga.losses import cross_entropy, input_gradient, norm
from kdiga.options import Share, Weight
from kdiga.types import Batch, Labels, Logits, PerSample, Terms, Threat


def igam(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    igam_weight: Weight = 0.005,
    begin: Share = 0.875,
) -> Terms:
    """Terms: `ce`, and from `begin` on `igam`. One student forward, in training mode, serves both."""
    u = random_point(batch.x, threat).requires_grad_()
    z = student(u)
    terms = {"ce": cross_entropy(z, batch.y)}
    if progress >= begin:
        j_teacher = input_gradient(_probability(teacher(u), batch.y), u)
        j_student = input_gradient(_probability(z, batch.y), u, create_graph=True)
        terms["igam"] = igam_weight * norm(j_student - j_teacher, 2.0) ** 2
    return terms


def _probability(z: Logits, y: Labels) -> PerSample:
    return torch.exp(-cross_entropy(z, y))
