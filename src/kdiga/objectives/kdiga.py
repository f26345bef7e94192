"""Shao, Yi, Chen and Hsieh 2021, arXiv 2110.12072: knowledge distillation with input gradient alignment.

    L = ce_weight  CE(f_s(u), y)
      + kd_weight  T^2 KL(softmax(f_t(u) / T) || softmax(f_s(u) / T))
      + iga_weight || grad_u CE(f_s(u), y) - grad_u CE(f_t(u), y) ||_2

with u = x (`point="clean"`, the paper's) or u drawn uniformly from the ball around x (`point="random"`). The last term, one l2 norm
per sample, is differentiated a second time for the student's weights. No inner maximisation. One forward of each network
serves every term.

Where this differs from the first author's code (see `kdiga_author` for that scaling): gradients are of the summed, not the averaged,
loss and the norm is taken per sample, so `iga_weight` does not depend on the batch size; the KL is summed over classes; the random point
stays in [0, 1].
"""

from typing import Literal

from torch import nn

from kdiga.errors import BadInput
from kdiga.inner import eval_mode, random_point
from kdiga.losses import cross_entropy, input_gradient, kl, norm
from kdiga.options import Positive, Weight
from kdiga.types import Batch, Terms, Threat


def kdiga(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    progress: float,
    *,
    threat: Threat | None = None,
    ce_weight: Weight = 0.5,
    kd_weight: Weight = 0.5,
    iga_weight: Weight = 1.0,
    temperature: Positive = 1.0,
    point: Literal["clean", "random"] = "clean",
    batchnorm: Literal["train", "eval"] = "train",
) -> Terms:
    """Terms: `ce`, `kd`, `iga` (per sample, in nats per image unit).

    `threat` is needed for `point="random"` only. `batchnorm` is the student's mode while the aligned gradient is taken: "train" is the
    author's and costs nothing extra, but in training mode BatchNorm lets a sample's loss depend on the whole batch; "eval" spends a second
    forward with the running statistics, so that each gradient is the sample's own.
    """
    if point == "random":
        if threat is None:
            raise BadInput("kdiga with point='random' draws from the ball around x and needs a threat: pass threat=Threat(...)")
        u = random_point(batch.x, threat).requires_grad_()
    else:
        u = batch.x.detach().requires_grad_()
    target = teacher(u)
    g_teacher = input_gradient(cross_entropy(target, batch.y), u)
    z = student(u)
    own = cross_entropy(z, batch.y)
    if batchnorm == "train":
        g_student = input_gradient(own, u, create_graph=True)
    else:
        with eval_mode(student):
            g_student = input_gradient(cross_entropy(student(u), batch.y), u, create_graph=True)
    return {
        "ce": ce_weight * own,
        "kd": kd_weight * kl(z, target.detach(), temperature),
        "iga": iga_weight * norm(g_student - g_teacher, 2.0),
    }
