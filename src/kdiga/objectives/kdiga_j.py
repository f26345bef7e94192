"""This package, after Shao et al. 2021, arXiv 2110.12072, and Srinivas and Fleuret 2018, arXiv 1803.00443: KDIGA on projected logits, near x.

    u  = x + U(ball)                              v = a random unit vector of logit space, orthogonal to (1, ..., 1), one per sample
    e  = eps || grad_u <v, f_s(u)> - grad_u <v, f_t(u)> ||_dual
    L  = ce_weight CE(f_s(u), y) + kd_weight T^2 KL(softmax(f_t(u) / T) || softmax(f_s(u) / T)) + jac_weight e^2 / 2

KDIGA aligns the gradient of the label's cross-entropy, which vanishes where the teacher is sure, and with
it the signal. The logits' Jacobian does not vanish there. Matching a random projection of it is, in expectation, matching all of it: Czarnecki
et al. 2017, arXiv 1706.04859, project outputs in the same way; Hoffman et al. 2019, arXiv 1908.02729, penalise the student's own Jacobian so.

No data set has a weight of its own, because e is measured in the unit that matters: with the dual norm (l1 for an l-inf threat) it is the
largest change, to first order, that any perturbation of the threat can make to the networks' difference along v, in logits. Half
its square is in nats, as the other terms are: KL(p || q) is at most ||d||^2 / 4 for logits that differ by d, the softmax's Fisher information having
no eigenvalue above 1/2. That fixes the order of magnitude; the factor 1/2 itself was chosen on validation images of two data sets, where a quarter
of it costs 5 to 7 points of robust accuracy, and four times of it costs nothing on one and 7 points of clean accuracy on the other
(`benchmarks/kdiga_j.py`, docs/results.md). A teacher whose logits are far smaller than a trained network's wants more.

`point="clean"` aligns at x, `"step"` after one signed-gradient step, from the random point, towards the greatest KL(p_t(x) || p_s(u)): one more
forward and backward of the student. No inner maximisation otherwise. One forward of each network serves every term.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from kdiga.inner import dual_norm, eval_mode, maximise, random_point
from kdiga.losses import cross_entropy, input_gradient, kl
from kdiga.options import Positive, Weight
from kdiga.types import Batch, Images, Terms, Threat


def kdiga_j(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    progress: float,
    *,
    threat: Threat,
    ce_weight: Weight = 0.5,
    kd_weight: Weight = 0.5,
    jac_weight: Weight = 1.0,
    temperature: Positive = 1.0,
    point: Literal["random", "clean", "step"] = "random",
) -> Terms:
    """Terms: `ce`, `kd`, `jac`, all in nats."""
    u = _point(student, teacher, batch.x, threat, point).requires_grad_()
    target, z = teacher(u), student(u)
    v = torch.randn_like(z, dtype=torch.promote_types(z.dtype, torch.float32))  # bfloat16's rounding is no unit vector
    v = v - v.mean(1, keepdim=True)
    v = v / v.norm(dim=1, keepdim=True)
    g_teacher = input_gradient((v * target).sum(1), u)
    g_student = input_gradient((v * z).sum(1), u, create_graph=True)
    error = threat.eps * dual_norm(g_student - g_teacher, threat)
    return {
        "ce": ce_weight * cross_entropy(z, batch.y),
        "kd": kd_weight * kl(z, target.detach(), temperature),
        "jac": jac_weight * error**2 / 2,
    }


def _point(student: nn.Module, teacher: nn.Module, x: Images, threat: Threat, point: str) -> Tensor:
    if point == "clean":
        return x.detach().clone()
    start = random_point(x, threat)
    if point == "random":
        return start
    with torch.no_grad():
        target = teacher(x)
    with eval_mode(student):
        return maximise(lambda u: kl(student(u), target), x, threat, steps=1, start=start)
