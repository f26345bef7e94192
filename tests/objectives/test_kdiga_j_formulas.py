"""kdiga_j against its formula on models whose Jacobian is known, and against an independent transcription."""

import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from kdiga.objectives import kdiga_j
from kdiga.types import Batch, Threat

THREAT = Threat(norm=math.inf, eps=0.1)
N, CLASSES = 5, 3
V = torch.tensor([[1.0, -2.0, 0.0], [0.0, 0.5, 1.5], [3.0, 3.0, -1.0], [-1.0, 0.0, 0.0], [0.2, 0.1, -0.4]], dtype=torch.float64)


class Linear(nn.Module):
    """Logits W x: the Jacobian is W everywhere."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(CLASSES, 4, generator=g, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w.T


def batch() -> Batch:
    g = torch.Generator().manual_seed(0)
    x = 0.3 + 0.4 * torch.rand(N, 1, 2, 2, generator=g, dtype=torch.float64)
    return Batch(x, torch.randint(CLASSES, (N,), generator=g), torch.arange(N))


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The projection is V, the random point x + 0.8 eps."""
    monkeypatch.setattr(torch, "randn_like", lambda z, dtype=None: V.clone())
    monkeypatch.setattr(torch, "rand_like", lambda x: torch.full_like(x, 0.9))


def unit() -> Tensor:
    centred = V - V.mean(1, keepdim=True)
    return centred / centred.pow(2).sum(1, keepdim=True).sqrt()


@pytest.mark.parametrize(("norm", "dual"), [(math.inf, 1.0), (2.0, 2.0)])
@pytest.mark.usefixtures("draws")
def test_on_two_linear_models(norm: float, dual: float) -> None:
    student, teacher, b = Linear(1), Linear(2).requires_grad_(False), batch()
    threat = Threat(norm=norm, eps=0.1)
    terms = kdiga_j(
        student, teacher, b, 0.0, threat=threat, ce_weight=0.7, kd_weight=0.3, jac_weight=2.0, temperature=2.0, point="clean"
    )
    log_p = torch.log_softmax(student(b.x), 1)
    p_t, p_s = torch.softmax(teacher(b.x) / 2, 1), torch.softmax(student(b.x) / 2, 1)
    assert torch.allclose(terms["ce"], -0.7 * log_p[torch.arange(N), b.y])
    assert torch.allclose(terms["kd"], 0.3 * 4 * (p_t * (p_t / p_s).log()).sum(1))
    error = 0.1 * torch.stack([(v @ (student.w - teacher.w)).norm(p=dual) for v in unit()])
    assert torch.allclose(terms["jac"], 2.0 * error**2 / 2)


@pytest.mark.usefixtures("draws")
def test_the_random_point_is_where_every_term_is_taken() -> None:
    student, teacher, b = Linear(1), Linear(2).requires_grad_(False), batch()
    moved = Batch(b.x + 0.8 * THREAT.eps, b.y, b.row)
    there, here = (
        kdiga_j(student, teacher, moved, 0.0, threat=THREAT, point="clean"),
        kdiga_j(student, teacher, b, 0.0, threat=THREAT),
    )
    assert all(torch.allclose(there[k], here[k]) for k in there)


def test_one_step_goes_where_the_student_leaves_the_teachers_clean_prediction() -> None:
    """Of a linear student, the gradient of KL(p_t(x) || p_s(u)) at u is W^T (p_s(u) - p_t(x)): the point is a corner, from a start inside."""
    student, teacher, b = Linear(1), Linear(2).requires_grad_(False), batch()
    seen: list[Tensor] = []
    student.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    torch.manual_seed(3)
    kdiga_j(student, teacher, b, 0.0, threat=THREAT, point="step")
    start, u = seen
    p_s, p_t = (torch.softmax(x.flatten(1) @ w.T, 1) for x, w in ((start, student.w), (b.x, teacher.w)))
    towards = ((p_s - p_t) @ student.w).sign().view_as(u)
    assert torch.allclose(u, torch.minimum(torch.maximum(start + THREAT.eps * towards, b.x - THREAT.eps), b.x + THREAT.eps))


def test_the_projection_is_a_random_unit_vector_without_a_constant_part() -> None:
    """A common shift of all logits says nothing about the prediction, so a student that differs only by one is aligned; and over many draws
    the term is the mean over all directions: (C - 1) E <v, d>^2 = ||d||^2 for l2."""

    class Shifted(Linear):
        def forward(self, x: Tensor) -> Tensor:
            z: Tensor = super().forward(x)
            return z + 5 * x.flatten(1).sum(1, keepdim=True)

    teacher, b = Linear(2).requires_grad_(False), batch()
    terms = kdiga_j(Shifted(2), teacher, b, 0.0, threat=THREAT)
    assert terms["jac"].max().item() < 1e-24
    student = Linear(1)
    many = Batch(b.x[:1].expand(20_000, -1, -1, -1), b.y[:1].expand(20_000), torch.arange(20_000))
    torch.manual_seed(0)
    found = kdiga_j(student, teacher, many, 0.0, threat=Threat(norm=2.0, eps=0.1), point="clean")["jac"].mean().item()
    gap = (student.w - teacher.w) - (student.w - teacher.w).mean(0)
    assert found == pytest.approx(0.01 * gap.pow(2).sum().item() / (CLASSES - 1) / 2, rel=0.03)


@pytest.mark.parametrize("point", ["clean", "random", "step"])
def test_the_second_derivative_is_the_finite_difference(point: Literal["clean", "random", "step"]) -> None:
    torch.manual_seed(0)
    student, teacher = (
        nn.Sequential(nn.Conv2d(1, 3, 2, padding=1), nn.BatchNorm2d(3), nn.SiLU(), nn.Flatten(), nn.Linear(27, 3)).double()
        for _ in range(2)
    )
    teacher.eval().requires_grad_(False)
    student.train()
    parameters, b = list(student.parameters()), batch()
    statistics = {k: v.clone() for k, v in student.named_buffers()}

    def loss() -> Tensor:
        student.load_state_dict(statistics, strict=False)  # the step is found with the running statistics
        torch.manual_seed(1)
        return kdiga_j(student, teacher, b, 0.0, threat=THREAT, ce_weight=0.0, kd_weight=0.0, point=point)["jac"].mean()

    grads = torch.autograd.grad(loss(), parameters, allow_unused=True)
    step = [torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=p.dtype) for p in parameters]
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, s in zip(parameters, step, strict=True):
                p.add_(s, alpha=sign * 1e-6)
        ends.append(loss().item())
        with torch.no_grad():
            for p, s in zip(parameters, step, strict=True):
                p.sub_(s, alpha=sign * 1e-6)
    expected = sum((d * s).sum().item() for d, s in zip(grads, step, strict=True) if d is not None)
    assert abs(expected) > 1e-4
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(expected, rel=1e-3)


def test_it_is_a_bound_to_first_order_on_what_the_threat_can_do() -> None:
    """For linear networks the first order is exact: along v, no perturbation moves the difference of logits by more than e."""
    student, teacher, b = Linear(1), Linear(2).requires_grad_(False), batch()
    torch.manual_seed(0)
    error = (kdiga_j(student, teacher, b, 0.0, threat=THREAT, point="clean")["jac"] * 2).sqrt()
    torch.manual_seed(0)
    v = torch.randn_like(student(b.x))
    v = v - v.mean(1, keepdim=True)
    v = v / v.norm(dim=1, keepdim=True)
    direction = (v @ (student.w - teacher.w)).sign()
    moved = (THREAT.eps * direction @ (student.w - teacher.w).T * v).sum(1)
    assert torch.allclose(moved, error)


def test_two_classes_under_bfloat16_are_finite() -> None:
    """Two numbers of bfloat16 are equal now and then: a projection drawn in it would have no direction."""
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)) for _ in range(2))
    b = Batch(torch.rand(4000, 1, 2, 2), torch.randint(2, (4000,)), torch.arange(4000))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = kdiga_j(student, teacher.requires_grad_(False), b, 0.0, threat=THREAT)
    assert all(v.isfinite().all() for v in terms.values())
