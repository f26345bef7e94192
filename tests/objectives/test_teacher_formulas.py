"""The objectives without a teacher against their formulas: by hand on a linear model, and written out a second time on a network."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdiga.errors import BadInput
from kdiga.objectives import OBJECTIVES, SINGLE_STEP, cure, fgsm_rs, free, gradalign, llr, mart, n_fgsm
from kdiga.types import Batch, Terms, Threat

THREAT = Threat(norm=math.inf, eps=0.1)
SPHERE = Threat(norm=2.0, eps=0.3)


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
        return ((p - nn.functional.one_hot(y, len(self.w))) @ self.w).view(x.shape)


def batch(n: int = 5, classes: int = 3) -> Batch:
    g = torch.Generator().manual_seed(0)
    x = 0.3 + 0.4 * torch.rand(n, 1, 2, 2, generator=g, dtype=torch.float64)
    return Batch(x, torch.randint(classes, (n,), generator=g), torch.arange(n))


def network() -> nn.Sequential:
    """In training mode, and with running statistics that differ from those of any batch here."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(1, 3, 2, padding=1), nn.BatchNorm2d(3), nn.SiLU(), nn.Flatten(), nn.Linear(27, 3)).double()
    mean, variance, _ = net.buffers()
    mean.normal_()
    variance.uniform_(0.5, 2)
    return net.train()


def dense(weights: list[list[float]]) -> tuple[nn.Sequential, nn.Parameter]:
    """Logits W x; float32."""
    layer = nn.Linear(len(weights[0]), len(weights), bias=False)
    layer.weight = nn.Parameter(torch.tensor(weights))
    return nn.Sequential(nn.Flatten(), layer), layer.weight


def ce(z: Tensor, y: Tensor) -> Tensor:
    """One sample's logits and label."""
    return z.exp().sum().log() - z[y]


def ces(z: Tensor, y: Tensor) -> Tensor:
    return torch.stack([ce(z[i], y[i]) for i in range(len(y))])


def slope(net: nn.Module, u: Tensor, y: Tensor, *, graph: bool = False) -> Tensor:
    """The gradient of the summed cross-entropy at u; in training mode it moves the BatchNorm statistics, as a forward does."""
    u = u if u.requires_grad else u.detach().clone().requires_grad_()
    g: Tensor = torch.autograd.grad(ces(net(u), y).sum(), u, create_graph=graph)[0]
    return g


def boxed(u: Tensor, x: Tensor, eps: float) -> Tensor:
    return torch.min(torch.max(u, x - eps), x + eps).clamp(0, 1)


def uniform(x: Tensor, eps: float) -> Tensor:
    return (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)


def attack(net: nn.Sequential, start: Tensor, b: Batch, eps: float, steps: int, step: float) -> Tensor:
    """Projected sign ascent on the cross-entropy of the network in evaluation mode."""
    net.eval()
    u = boxed(start, b.x, eps)
    for _ in range(steps):
        u = boxed(u + step * slope(net, u, b.y).sign(), b.x, eps)
    net.train()
    return u.detach()


def agree(name: str, expected: Terms, net: nn.Sequential, reference: nn.Sequential, b: Batch, **options: Any) -> None:
    """The terms, what they teach every weight, and the BatchNorm statistics that they leave are the reference's."""
    torch.manual_seed(5)
    terms = OBJECTIVES[name](net, None, b, 0.5, threat=THREAT, **options)
    assert set(terms) == set(expected)
    for k, values in expected.items():
        assert torch.allclose(terms[k], values, rtol=1e-9, atol=1e-12), k
        ours, theirs = (
            torch.autograd.grad(v.mean(), list(m.parameters()), retain_graph=True, allow_unused=True)
            for v, m in ((terms[k], net), (values, reference))
        )
        for mine, other in zip(ours, theirs, strict=True):
            assert (mine is None) == (other is None), k
            assert mine is None or torch.allclose(mine, other, rtol=1e-7, atol=1e-10), k
    for mine, other in zip(net.buffers(), reference.buffers(), strict=True):
        assert torch.allclose(mine, other), "BatchNorm saw other batches"


# mart


def test_mart_by_hand_on_a_linear_model() -> None:
    """Two classes: the worst case moves every pixel by eps against the weights' difference, and 1 - p_rival is p_y."""
    model, b = Linear(1, classes=2), batch(classes=2)
    away = (model.w[1] - model.w[0]).sign() * (1 - 2 * b.y[:, None]).double()
    p = torch.softmax(model(b.x), 1)
    q = torch.softmax(model(b.x + THREAT.eps * away.view(-1, 1, 2, 2)), 1)
    p_y, q_y = p[torch.arange(5), b.y], q[torch.arange(5), b.y]
    terms = mart(model, None, b, 0.0, threat=THREAT, beta=3.0, steps=20)
    assert torch.allclose(terms["bce"], -2 * q_y.log())
    assert torch.allclose(terms["kl"], 3 * (p * (p / q).log()).sum(1) * (1 - p_y))


def test_mart_is_its_formula() -> None:
    net, reference, b = network(), network(), batch()
    torch.manual_seed(5)
    far = attack(reference, b.x + 0.001 * torch.randn_like(b.x), b, 0.1, 4, 0.04)
    p, q, bce, kl = torch.softmax(reference(b.x), 1), torch.softmax(reference(far), 1), [], []
    for i, y in enumerate(b.y.tolist()):
        wrong = max((k for k in range(3) if k != y), key=lambda k: q[i, k].item())
        bce.append(-q[i, y].log() - (1 - q[i, wrong]).log())
        kl.append(2.5 * sum(p[i, k] * (p[i, k] / q[i, k]).log() for k in range(3)) * (1 - p[i, y]))
    agree("mart", {"bce": torch.stack(bce), "kl": torch.stack(kl)}, net, reference, b, beta=2.5, steps=4, step_size=0.04)


def test_mart_stays_finite_and_teaches_where_a_wrong_class_is_certain() -> None:
    b = Batch(torch.ones(1, 1, 1, 1), torch.tensor([0]), torch.arange(1))
    model, w = dense([[-200.0], [200.0], [0.0]])
    bce = mart(model, None, b, 0.0, threat=Threat(norm=math.inf, eps=1e-4), steps=1)["bce"]
    assert bce.item() == pytest.approx(400 + 200, abs=1)
    (g,) = torch.autograd.grad(bce.sum(), w)
    assert torch.allclose(g.flatten(), torch.tensor([-1.0, 2.0, -1.0]), atol=1e-3)


# fgsm_rs and n_fgsm


def test_one_step_from_a_random_start_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """From u = x + 0.5 eps everywhere, a step of 1.25 eps ends at x - 0.75 eps where the slope falls, and is cut to x + eps elsewhere."""
    monkeypatch.setattr(torch, "rand_like", lambda x: torch.full_like(x, 0.75))
    model, b = Linear(1), batch()
    up = model.gradient(b.x + 0.05, b.y) > 0
    x = b.x + torch.where(up, 0.1, 0.05 - 0.125)
    assert torch.allclose(fgsm_rs(model, None, b, 0.0, threat=THREAT)["ce"], ces(model(x), b.y))
    x = b.x + torch.where(up, 0.05 + 0.03, 0.05 - 0.03)
    assert torch.allclose(fgsm_rs(model, None, b, 0.0, threat=THREAT, step_size=0.03)["ce"], ces(model(x), b.y))
    with pytest.raises(BadInput, match="swapped"):
        fgsm_rs(model, None, b, 0.0, threat=THREAT, step_size=0.21)


def test_fgsm_rs_is_its_formula() -> None:
    net, reference, b = network(), network(), batch()
    torch.manual_seed(5)
    far = attack(reference, uniform(b.x, 0.1), b, 0.1, 1, 0.125)
    agree("fgsm_rs", {"ce": ces(reference(far), b.y)}, net, reference, b)


def test_n_fgsm_is_its_formula_and_leaves_the_ball() -> None:
    net, reference, b = network(), network(), batch()
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    for options, noise, step in (({}, 0.2, 0.1), ({"noise": 0.5, "step_size": 0.04}, 0.05, 0.04), ({"noise": 0.0}, 0.0, 0.1)):
        torch.manual_seed(5)
        noisy = uniform(b.x, noise)
        reference.eval()
        far = (noisy + step * slope(reference, noisy, b.y).sign()).clamp(0, 1)
        reference.train()
        agree("n_fgsm", {"ce": ces(reference(far), b.y)}, net, reference, b, **options)
        assert (seen[-1] - b.x).abs().max().item() <= noise + step + 1e-12
    assert (seen[1] - b.x).abs().max().item() > 0.2


def test_n_fgsm_under_an_l2_threat_stays_within_noise_and_step() -> None:
    seen: list[Tensor] = []
    model, b = Linear(1), batch()
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    torch.manual_seed(0)
    n_fgsm(model, None, b, 0.0, threat=SPHERE)
    noise, step = (seen[0] - b.x).flatten(1).norm(dim=1), (seen[1] - seen[0]).flatten(1).norm(dim=1)
    assert SPHERE.eps < noise.max().item() <= 2 * SPHERE.eps
    assert step.max().item() == pytest.approx(SPHERE.eps)


# free


def test_free_takes_the_next_perturbation_from_the_loops_own_backward() -> None:
    """Three updates written out: one forward each, delta carried on, also to the next batch and into its [0, 1]."""
    net, reference, first = network(), network(), batch()
    second = Batch(first.x.flip(0).round(), first.y.flip(0), first.row)
    memory: dict[str, Tensor] = {}
    forwards: list[Tensor] = []
    net.register_forward_pre_hook(lambda _, args: forwards.append(args[0].detach()))
    delta = torch.zeros_like(first.x)
    for b in (first, first, second, second):
        before = memory.get("delta")
        ce = free(net, None, b, 0.0, threat=THREAT, memory=memory)["ce"]
        assert memory.get("delta") is before  # nothing is known before the backward
        u = boxed(b.x + delta, b.x, 0.1).detach().requires_grad_()
        expected = ces(reference(u), b.y)
        assert torch.allclose(ce, expected)
        net.zero_grad()
        ce.mean().backward()
        theirs = torch.autograd.grad(expected.mean(), [u, *reference.parameters()])
        for p, g in zip(net.parameters(), theirs[1:], strict=True):
            assert p.grad is not None
            assert torch.allclose(p.grad, g)
            with torch.no_grad():
                p.sub_(0.1 * p.grad)
        delta = boxed(u + 0.1 * theirs[0].sign(), b.x, 0.1).detach() - b.x
        assert torch.allclose(memory["delta"], delta)
        assert not memory["delta"].requires_grad
        assert delta.abs().max().item() == pytest.approx(0.1)
        reference.load_state_dict(net.state_dict())
    assert len(forwards) == 4
    assert torch.equal(forwards[0], first.x)


def test_free_by_hand_reaches_the_worst_case_of_a_linear_model_at_the_second_replay() -> None:
    for threat in (THREAT, SPHERE):
        memory: dict[str, Tensor] = {}
        model, b = Linear(1, classes=2), batch(classes=2)
        free(model, None, b, 0.0, threat=threat, memory=memory)["ce"].mean().backward()
        g = model.gradient(b.x, b.y).detach()
        unit = g.sign() if threat is THREAT else g / g.flatten(1).norm(dim=1)[:, None, None, None]
        assert torch.allclose(memory["delta"], threat.eps * unit)
        again = free(model, None, b, 0.0, threat=threat, memory=memory)["ce"]
        assert torch.allclose(again, ces(model(b.x + threat.eps * unit), b.y))


def test_free_forgets_the_perturbation_of_a_batch_of_another_size() -> None:
    model, b = Linear(1), batch()
    memory = {"delta": torch.full((3, 1, 2, 2), 0.1, dtype=torch.float64)}
    assert torch.allclose(free(model, None, b, 0.0, threat=THREAT, memory=memory)["ce"], ces(model(b.x), b.y))


# gradalign


def test_gradalign_by_hand_on_a_linear_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand_like", lambda x: torch.tensor([0.0, 1.0, 1.0, 0.5]).to(x).view(1, 1, 2, 2).expand_as(x))
    model, b = Linear(1), batch()
    eta = torch.tensor([-0.3, 0.3, 0.3, 0.0]).double().view(1, 1, 2, 2)
    g, near = model.gradient(b.x, b.y), model.gradient(b.x + eta, b.y)
    terms = gradalign(model, None, b, 0.0, threat=Threat(norm=math.inf, eps=0.3), align_weight=0.7)
    assert torch.allclose(terms["ce"], ces(model(b.x + 0.3 * g.sign()), b.y))
    cosine = torch.nn.functional.cosine_similarity(g.flatten(1), near.flatten(1))
    assert torch.allclose(terms["align"], 0.7 * (1 - cosine))
    assert terms["align"].max().item() > 1e-4


def test_gradalign_is_its_formula() -> None:
    """One gradient at x for attack and term, detached; training mode throughout; the second derivative through the other one only."""
    net, reference, b = network(), network(), batch()
    torch.manual_seed(5)
    u = uniform(b.x, 0.1)
    g, near = slope(reference, b.x, b.y).detach(), slope(reference, u, b.y, graph=True)
    turn = [0.2 * (1 - (g[i] * near[i]).sum() / (g[i].pow(2).sum().sqrt() * near[i].pow(2).sum().sqrt())) for i in range(len(b.y))]
    expected = {"ce": ces(reference(boxed(b.x + 0.125 * g.sign(), b.x, 0.1)), b.y), "align": torch.stack(turn)}
    agree("gradalign", expected, net, reference, b)


def test_gradalign_counts_a_sample_without_slope_as_aligned() -> None:
    """Logits hundreds apart: in float32 the first sample's loss is exactly flat. The other one still teaches, and nothing is NaN."""
    model, w = dense([[1000.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    x = torch.tensor([[0.9, 0.5], [0.001, 0.5]]).view(2, 1, 1, 2)
    b = Batch(x, torch.tensor([0, 1]), torch.arange(2))
    torch.manual_seed(0)
    align = gradalign(model, None, b, 0.0, threat=Threat(norm=math.inf, eps=0.001))["align"]
    assert align[0].item() == 0
    assert align[1].item() > 0
    (g,) = torch.autograd.grad(align.sum(), w)
    assert g.isfinite().all()
    assert g.abs().max().item() > 0


# llr


def test_llr_by_hand_on_a_line() -> None:
    """Logits (a x, 0), label 0: l = log(1 + exp(-a x)), convex, so that l departs most from its tangent at the end x - eps or x + eps."""
    a, eps = 3.0, 0.2
    model = dense([[a], [0.0]])[0].double()
    x = torch.tensor([0.5, 0.3], dtype=torch.float64)
    b = Batch(x.view(2, 1, 1, 1), torch.tensor([0, 0]), torch.arange(2))
    tangent = -a / (1 + (a * x).exp())
    ends = []
    for d in (eps, -eps):
        line = torch.log1p((-a * x).exp()) + d * tangent
        ends.append((torch.log1p((-a * (x + d)).exp()) - line).abs())
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        terms = llr(
            model, None, b, 0.0, threat=Threat(norm=math.inf, eps=eps), linearity_weight=2.5, slope_weight=0.7, ce_weight=0.4
        )
        assert torch.allclose(terms["ce"], 0.4 * torch.log1p((-a * x).exp()))
        assert torch.allclose(terms["slope"], 0.7 * eps * tangent.abs())
        for i in range(2):
            hits = [k for k in (0, 1) if terms["linearity"][i].item() == pytest.approx(2.5 * ends[k][i].item(), abs=1e-12)]
            assert len(hits) == 1
            seen.add((i, hits[0]))
    assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}  # the random start decides which hill is climbed


def test_llr_is_its_formula() -> None:
    net, reference, b = network(), network(), batch()
    torch.manual_seed(5)
    far = uniform(b.x, 0.1)
    reference.eval()
    flat, g = ces(reference(b.x), b.y).detach(), slope(reference, b.x, b.y)
    for _ in range(3):
        u = far.detach().requires_grad_()
        line = torch.stack([flat[i] + ((u[i] - b.x[i]) * g[i]).sum() for i in range(len(b.y))])
        (up,) = torch.autograd.grad((ces(reference(u), b.y) - line).abs().sum(), u)
        far = boxed(u + 0.06 * up.sign(), b.x, 0.1).detach()
    reference.train()
    x = b.x.clone().requires_grad_()
    here = ces(reference(x), b.y)
    (g,) = torch.autograd.grad(here.sum(), x, create_graph=True)
    rise = torch.stack([((far - b.x)[i] * g[i]).sum() for i in range(len(b.y))])
    expected = {"ce": 0.5 * here, "linearity": 4 * (ces(reference(far), b.y) - here - rise).abs(), "slope": 3 * rise.abs()}
    options = {"ce_weight": 0.5, "linearity_weight": 4.0, "slope_weight": 3.0, "steps": 3, "step_size": 0.06}
    agree("llr", expected, net, reference, b, **options)


# cure


def test_cure_by_hand_on_a_linear_model() -> None:
    model, b = Linear(1), batch()
    for threat in (THREAT, SPHERE):
        g = model.gradient(b.x, b.y)
        unit = g.sign() if threat is THREAT else g / g.flatten(1).norm(dim=1)[:, None, None, None]
        terms = cure(model, None, b, 0.0, threat=threat, curvature_weight=1.5, h=0.5)
        bend = model.gradient(b.x + 0.5 * threat.eps * unit, b.y) - g
        assert torch.allclose(terms["ce"], ces(model(b.x), b.y))
        assert torch.allclose(terms["curvature"], 1.5 * bend.flatten(1).pow(2).sum(1).sqrt())
        assert terms["curvature"].min().item() > 1e-3


def test_cure_is_its_formula() -> None:
    """Both gradients teach; z does not, and x + z stays in [0, 1]."""
    net, reference, b = network(), network(), batch()
    b = Batch(torch.where(b.x > 0.55, 1.0, b.x), b.y, b.row)
    x = b.x.clone().requires_grad_()
    here = ces(reference(x), b.y)
    (g,) = torch.autograd.grad(here.sum(), x, create_graph=True)
    far = (b.x + 0.35 * 0.1 * g.detach().sign()).clamp(0, 1)
    bend = slope(reference, far, b.y, graph=True) - g
    curvature = torch.stack([0.8 * bend[i].pow(2).sum().sqrt() for i in range(len(b.y))])
    agree("cure", {"ce": here, "curvature": curvature}, net, reference, b)


def test_cure_asks_nothing_of_a_flat_loss() -> None:
    """A network without weights: gradients are equal, their difference is 0, and so is its gradient, not NaN."""
    model, b = Linear(1), batch()
    with torch.no_grad():
        model.w.zero_()
    curvature = cure(model, None, b, 0.0, threat=THREAT)["curvature"]
    assert curvature.abs().max().item() == 0
    (g,) = torch.autograd.grad(curvature.sum(), model.w)
    assert g.isfinite().all()


def test_single_step_methods_are_named_for_the_loop_that_watches_them() -> None:
    assert {"fgsm_rs", "n_fgsm", "free", "gradalign"} == SINGLE_STEP
    assert set(OBJECTIVES) >= SINGLE_STEP
