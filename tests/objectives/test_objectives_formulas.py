"""Each method against its formula, worked out by hand on models whose gradients are known."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdiga.errors import BadInput
from kdiga.objectives import OBJECTIVES, kd, kdiga, kdiga_author, pgd_at, trades
from kdiga.types import Batch, Threat

THREAT = Threat(norm=math.inf, eps=0.1)


class Linear(nn.Module):
    """Logits W x for 1 x 2 x 2 images: the gradient of the cross-entropy at x is W^T (softmax(W x) - onehot(y))."""

    def __init__(self, seed: int, classes: int = 3) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(classes, 4, generator=g, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w.T

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        p = torch.softmax(x.flatten(1) @ self.w.T, 1)
        return (p - nn.functional.one_hot(y, len(self.w))) @ self.w


def batch(n: int = 5) -> Batch:
    g = torch.Generator().manual_seed(0)
    x = 0.3 + 0.4 * torch.rand(n, 1, 2, 2, generator=g, dtype=torch.float64)
    return Batch(x, torch.randint(3, (n,), generator=g), torch.arange(n))


def test_kdiga_on_two_linear_models() -> None:
    student, teacher, b = Linear(1), Linear(2).requires_grad_(False), batch()
    terms = kdiga(student, teacher, b, 0.0, ce_weight=0.7, kd_weight=0.3, iga_weight=2.0, temperature=4.0)
    log_p = torch.log_softmax(student(b.x), 1)
    p_t, p_s = torch.softmax(teacher(b.x) / 4, 1), torch.softmax(student(b.x) / 4, 1)
    assert torch.allclose(terms["ce"], -0.7 * log_p[torch.arange(5), b.y])
    assert torch.allclose(terms["kd"], 0.3 * 16 * (p_t * (p_t / p_s).log()).sum(1))
    gap = student.gradient(b.x, b.y) - teacher.gradient(b.x, b.y)
    assert torch.allclose(terms["iga"], 2 * gap.pow(2).sum(1).sqrt())


def test_kdiga_does_not_change_when_the_batch_is_doubled() -> None:
    student, teacher, b = Linear(1), Linear(2).requires_grad_(False), batch()
    twice = Batch(b.x.repeat(2, 1, 1, 1), b.y.repeat(2), b.row.repeat(2))
    for name, values in kdiga(student, teacher, b, 0.0).items():
        assert kdiga(student, teacher, twice, 0.0)[name].mean().item() == pytest.approx(values.mean().item())


def test_kdiga_vanishes_for_a_copy_and_has_a_finite_gradient_there() -> None:
    student, teacher = Linear(1), Linear(1).requires_grad_(False)
    terms = kdiga(student, teacher, batch(), 0.0)
    assert terms["iga"].abs().max() == 0
    (g,) = torch.autograd.grad(terms["iga"].sum() + terms["kd"].sum(), student.w)
    assert g.isfinite().all()
    assert g.abs().max() < 1e-12


def test_kdiga_at_a_random_point_uses_that_point_for_every_term(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand_like", lambda x: torch.full_like(x, 0.9))
    student, teacher, b = Linear(1), Linear(2).requires_grad_(False), batch()
    moved = Batch(b.x + 0.8 * THREAT.eps, b.y, b.row)
    there, here = kdiga(student, teacher, moved, 0.0), kdiga(student, teacher, b, 0.0, threat=THREAT, point="random")
    assert all(torch.allclose(there[k], here[k]) for k in there)


def test_kdiga_at_a_random_point_needs_a_threat() -> None:
    with pytest.raises(BadInput, match="needs a threat"):
        kdiga(Linear(1), Linear(2), batch(), 0.0, point="random")


def test_kdiga_with_frozen_statistics_aligns_each_samples_own_gradient() -> None:
    """In evaluation mode a sample's gradient is that of its loss alone; the training-mode one hears from the rest of the batch."""
    torch.manual_seed(0)
    statistics = nn.BatchNorm2d(1, momentum=0.0)  # running statistics stay at (0, 1): what changes is the batch's own
    student = nn.Sequential(statistics, nn.Flatten(), nn.Linear(4, 3)).double().train()
    teacher, b = Linear(2).requires_grad_(False), batch()
    changed = Batch(torch.cat([b.x[:1], 1 - b.x[1:]]), b.y, b.row)
    for mode, same in (("eval", True), ("train", False)):
        first, second = (kdiga(student, teacher, c, 0.0, batchnorm=mode)["iga"][0].item() for c in (b, changed))  # type: ignore[arg-type]
        assert (abs(first - second) < 1e-12) == same, mode
    assert student.training


def test_author_scaling_is_what_the_formula_says() -> None:
    student, teacher, b = Linear(1), Linear(2).requires_grad_(False), batch()
    terms = kdiga_author(student, teacher, b, 0.0, alpha=0.25, gamma=3.0, temperature=2.0)
    gap = (student.gradient(b.x, b.y) - teacher.gradient(b.x, b.y)) / 5
    p_t, p_s = torch.softmax(teacher(b.x) / 2, 1), torch.softmax(student(b.x) / 2, 1)
    expected = {
        "ce": 0.75 * nn.functional.cross_entropy(student(b.x), b.y),
        "kd": 0.25 * 4 * (p_t * (p_t / p_s).log()).mean(),  # the mean over samples and classes
        "iga": 3.0 / 5 * gap.norm(),
    }
    for name, value in expected.items():
        assert terms[name].mean().item() == pytest.approx(value.item()), name


def test_author_scaling_against_ours_is_b_to_the_minus_three_halves() -> None:
    student, teacher, b = Linear(1), Linear(2).requires_grad_(False), batch()
    for copies in (1, 4, 25):
        n = 5 * copies
        many = Batch(b.x.repeat(copies, 1, 1, 1), b.y.repeat(copies), torch.arange(n))
        rms = kdiga(student, teacher, many, 0.0)["iga"].pow(2).mean().sqrt()
        assert kdiga_author(student, teacher, many, 0.0)["iga"].mean().item() == pytest.approx((n**-1.5 * rms).item())


def test_author_uniform_start_is_not_clipped() -> None:
    seen: list[Tensor] = []
    student, b = Linear(1), batch()
    b = Batch(b.x.round(), b.y, b.row)
    student.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    torch.manual_seed(0)
    kdiga_author(student, Linear(2).requires_grad_(False), b, 0.0, start="uniform", threat=THREAT)
    assert seen[0].min() < 0 or seen[0].max() > 1
    with pytest.raises(BadInput, match="l-inf threat"):
        kdiga_author(student, Linear(2), b, 0.0, start="uniform")


def test_kd_is_ce_and_kl() -> None:
    student, teacher, b = Linear(1), Linear(2).requires_grad_(False), batch()
    terms = kd(student, teacher, b, 0.0, ce_weight=0.2, kd_weight=0.8, temperature=3.0)
    same = kdiga(student, teacher, b, 0.0, ce_weight=0.2, kd_weight=0.8, temperature=3.0)
    assert torch.allclose(terms["ce"], same["ce"])
    assert torch.allclose(terms["kd"], same["kd"])


def test_adversarial_training_reaches_the_worst_case_of_a_linear_model() -> None:
    """Two classes: the worst case moves every pixel by eps against the weights' difference."""
    model, b = Linear(1, classes=2), batch()
    b = Batch(b.x, b.y % 2, b.row)
    away = (model.w[1] - model.w[0]).sign() * (1 - 2 * b.y[:, None]).double()
    worst = b.x + THREAT.eps * away.view(-1, 1, 2, 2)
    expected = nn.functional.cross_entropy(model(worst), b.y, reduction="none")
    assert torch.allclose(pgd_at(model, None, b, 0.0, threat=THREAT)["ce"], expected)


def test_trades_adds_beta_times_the_worst_divergence() -> None:
    model, b = Linear(1, classes=2), batch()
    b = Batch(b.x, b.y % 2, b.row)
    torch.manual_seed(0)
    terms = trades(model, None, b, 0.0, threat=THREAT, beta=3.0, steps=20)
    p = torch.softmax(model(b.x), 1)
    corners = [b.x + THREAT.eps * s * (model.w[1] - model.w[0]).sign().view(1, 1, 2, 2) for s in (-1, 1)]
    worst = torch.stack([(p * (p / torch.softmax(model(c), 1)).log()).sum(1) for c in corners])
    assert torch.allclose(terms["ce"], nn.functional.cross_entropy(model(b.x), b.y, reduction="none"))
    # from a small start the ascent climbs the nearer hill: at one of the two corners, and at the higher one on most samples
    at_corner = (terms["kl"] / 3 - worst).abs().amin(0) < 1e-6
    assert at_corner.all()
    # both branches teach: p(x) is not detached in the outer loss, so the gradient is the finite difference's (x' stays at its corner)
    (g,) = torch.autograd.grad(terms["kl"].sum(), model.w)
    step, ends = torch.randn(model.w.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64), []
    for sign in (1, -1):
        moved = Linear(1, classes=2)
        with torch.no_grad():
            moved.w.add_(step, alpha=sign * 1e-6)
        torch.manual_seed(0)
        ends.append(trades(moved, None, b, 0.0, threat=THREAT, beta=3.0, steps=20)["kl"].sum().item())
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx((g * step).sum().item(), rel=1e-4)


@pytest.mark.parametrize("act", [nn.SiLU, nn.GELU, nn.Tanh])
def test_double_backward_equals_finite_differences(act: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    student, teacher = (
        nn.Sequential(nn.Conv2d(1, 3, 2, padding=1), nn.BatchNorm2d(3), act(), nn.Flatten(), nn.Linear(27, 3)).double()
        for _ in range(2)
    )
    teacher.eval().requires_grad_(False)
    student.train()
    parameters, b = list(student.parameters()), batch()

    def loss() -> Tensor:
        return kdiga(student, teacher, b, 0.0, ce_weight=0.0, kd_weight=0.0)["iga"].mean()

    grads = torch.autograd.grad(loss(), parameters, allow_unused=True)
    g = torch.Generator().manual_seed(1)
    for _ in range(5):
        step = [torch.randn(p.shape, generator=g, dtype=p.dtype) for p in parameters]
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, s in zip(parameters, step, strict=True):
                    p.add_(s, alpha=sign * 1e-5)
            ends.append(loss().item())
            with torch.no_grad():
                for p, s in zip(parameters, step, strict=True):
                    p.sub_(s, alpha=sign * 1e-5)
        expected = sum((d * s).sum().item() for d, s in zip(grads, step, strict=True) if d is not None)
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(expected, rel=1e-4)


def test_every_objective_states_its_source() -> None:
    import inspect
    import re

    for name, function in OBJECTIVES.items():
        header = inspect.getmodule(function).__doc__ or ""
        assert re.search(r"^ +L += ", header, re.M), name
        assert name == "ce" or "arXiv" in header, name
