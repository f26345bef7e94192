"""Objectives guided by gradients, differences and entropies: closed forms on linear models, then transcriptions with plain loops."""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdiga import objectives
from kdiga.errors import BadInput
from kdiga.inner import remembering
from kdiga.losses import angle
from kdiga.objectives.dgad import dgad
from kdiga.objectives.gradnorm import gradnorm
from kdiga.objectives.igam import igam
from kdiga.objectives.igd import igd
from kdiga.objectives.igdm import gap, igdm
from kdiga.objectives.mtard import mtard
from kdiga.objectives.n_fgsm import n_fgsm
from kdiga.objectives.pag import pag
from kdiga.objectives.saad import saad
from kdiga.types import Batch, Terms, Threat

EPS, PROGRESS, NOISE = 0.1, 0.6, 0.001
THREAT = Threat(norm=math.inf, eps=EPS)
SIZE = (2, 5, 5)


class Linear(nn.Module):
    """Logits W x for 1 x 2 x 2 images."""

    def __init__(self, seed: int, classes: int = 3) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(classes, 4, generator=g, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w.T

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """The gradient of the cross-entropy with y."""
        return (torch.softmax(self(x), 1) - nn.functional.one_hot(y, len(self.w))) @ self.w

    def worst(self, b: Batch) -> Tensor:
        """Of two classes: every pixel moves by eps against the label."""
        away = (self.w[1] - self.w[0]).sign() * (1 - 2 * b.y[:, None])
        return (b.x + EPS * away.view(-1, 1, 2, 2)).detach()


def toys(classes: int = 3) -> tuple[Linear, Linear, Batch]:
    g = torch.Generator().manual_seed(0)
    x = 0.3 + 0.4 * torch.rand(5, 1, 2, 2, generator=g, dtype=torch.float64)
    b = Batch(x, torch.randint(classes, (5,), generator=g), torch.arange(5))
    return Linear(1, classes), Linear(2, classes).requires_grad_(False), b


def network(seed: int) -> nn.Sequential:
    """A convolution, a BatchNorm whose running statistics are not the batch's, a smooth activation, four classes."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(36, 4)).double()
    state = net.state_dict()  # the tensors themselves
    state["1.running_mean"].uniform_(-0.3, 0.3)
    state["1.running_var"].uniform_(0.1, 0.4)
    state["4.weight"].mul_(3)
    return net.train()


def frozen(seed: int) -> nn.Sequential:
    return network(seed).eval().requires_grad_(False)


def batch(n: int = 6, black_and_white: bool = False) -> Batch:
    g = torch.Generator().manual_seed(3)
    x = torch.rand(n, *SIZE, generator=g, dtype=torch.float64)
    return Batch(x.round() if black_and_white else x, torch.randint(4, (n,), generator=g), torch.arange(n))


# What the transcriptions are written in: no function of the package.


def distribution(z: Tensor) -> list[Tensor]:
    """softmax of one row of logits."""
    powers = [torch.exp(v) for v in z]
    return [v / sum(powers) for v in powers]


def divergence(target: Tensor, z: Tensor) -> Tensor:
    """KL of two rows of logits, target first, summed over classes."""
    total = torch.zeros((), dtype=torch.float64)
    for p, q in zip(distribution(target), distribution(z), strict=True):
        total = total + p * (torch.log(p) - torch.log(q))
    return total


def entropy(z: Tensor) -> Tensor:
    return -sum((p * torch.log(p) for p in distribution(z)), torch.zeros((), dtype=torch.float64))


def label_loss(z: Tensor, y: Tensor) -> Tensor:
    return -torch.log(distribution(z)[int(y)])


def slope(model: nn.Module, x: Tensor, f: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Each sample's gradient of f(index, logits), with its graph."""
    x = x.clone().requires_grad_()
    z = model(x)
    (g,) = torch.autograd.grad(torch.stack([f(i, z[i]) for i in range(len(x))]).sum(), x, create_graph=True)
    return g


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / torch.sqrt((a * a).sum() * (b * b).sum())


def climb(student: nn.Module, b: Batch, f: Callable[[int, Tensor, Tensor], Tensor], start: Tensor) -> Tensor:
    """Ten steps of eps / 4 on f(index, logits, image) in a ball of radius eps, the student in evaluation mode."""
    student = deepcopy(student).eval()
    lowest, highest = (b.x - EPS).clamp(0, 1), (b.x + EPS).clamp(0, 1)
    u = start.clamp(lowest, highest)
    for _ in range(10):
        u = u.detach().requires_grad_()
        z = student(u)
        (g,) = torch.autograd.grad(torch.stack([f(i, z[i], u[i]) for i in range(len(u))]).sum(), u)
        u = (u.detach() + EPS / 4 * g.sign()).clamp(lowest, highest)
    return u.detach()


def noisy(b: Batch) -> Tensor:
    torch.manual_seed(5)
    return b.x + NOISE * torch.randn_like(b.x)


def uniform(b: Batch) -> Tensor:
    torch.manual_seed(5)
    return (b.x + EPS * (2 * torch.rand_like(b.x) - 1)).clamp(0, 1)


def same(objective: Callable[..., Terms], expected: Callable[..., dict[str, list[Tensor]]], b: Batch, **options: Any) -> None:
    """Each term, and its gradient for the student's weights, equal the transcription's; so do the BatchNorm statistics."""
    ours, theirs, teacher = network(1), network(1), frozen(2)
    torch.manual_seed(5)
    terms, transcribed = objective(ours, teacher, b, PROGRESS, **options), expected(theirs, teacher, b)
    assert list(terms) == list(transcribed)
    for name, values in transcribed.items():
        assert terms[name].shape == b.y.shape
        assert torch.allclose(terms[name], torch.stack(values), rtol=1e-9, atol=1e-12), name
        assert terms[name].abs().max() > 1e-6, f"{name} is not tested"
        gradients = [
            torch.autograd.grad(t.sum(), list(net.parameters()), retain_graph=True, allow_unused=True, materialize_grads=True)
            for t, net in ((terms[name], ours), (torch.stack(values), theirs))
        ]
        assert max(g.abs().max().item() for g in gradients[1]) > 1e-6, f"{name} teaches nothing"
        for a, g in zip(*gradients, strict=True):
            assert torch.allclose(a, g, rtol=1e-7, atol=1e-9 * max(1.0, g.abs().max().item())), f"gradient of {name}"
    for name in ("1.running_mean", "1.running_var"):
        assert torch.allclose(ours.state_dict()[name], theirs.state_dict()[name]), name


def rows(terms: dict[str, Callable[[int], Tensor]], b: Batch) -> dict[str, list[Tensor]]:
    return {name: [f(i) for i in range(len(b.x))] for name, f in terms.items()}


# IGDM


def test_igdm_of_linear_models_is_their_difference_along_the_attack() -> None:
    student, teacher, b = toys(2)
    terms = igdm(student, teacher, b, 0.25, threat=THREAT, base="pgd_at", igdm_weight=8.0)
    worst = student.worst(b)
    d = (worst - b.x).flatten(1)
    ours, theirs = torch.softmax(2 * d @ student.w.T, 1), torch.softmax(2 * d @ teacher.w.T, 1)
    assert torch.allclose(terms["igdm"], 0.25 * 8 * (theirs * (theirs / ours).log()).sum(1))
    assert torch.allclose(terms["ce"], nn.functional.cross_entropy(student(worst), b.y, reduction="none"))


@pytest.mark.parametrize("black_and_white", [False, True])
def test_igdm_on_trades_is_its_formula(black_and_white: bool) -> None:
    def transcription(student: nn.Module, teacher: nn.Module, b: Batch) -> dict[str, list[Tensor]]:
        with torch.no_grad():
            clean = deepcopy(student).eval()(b.x)
        u = climb(student, b, lambda i, z, _: divergence(clean[i], z), noisy(b))
        mirror = torch.minimum(torch.maximum(b.x - (u - b.x), torch.zeros_like(u)), torch.ones_like(u))
        z, z_u = student(b.x), student(u)
        ours, theirs = student(u) - student(mirror), teacher(u) - teacher(mirror)
        return rows(
            {
                "ce": lambda i: label_loss(z[i], b.y[i]),
                "kl": lambda i: 6 * divergence(z[i], z_u[i]),
                "igdm": lambda i: PROGRESS * 20 * divergence(theirs[i], ours[i]),
            },
            b,
        )

    same(igdm, transcription, batch(black_and_white=black_and_white), threat=THREAT, base="trades", igdm_weight=20.0)


def test_igdms_points_are_images_on_both_sides() -> None:
    seen: list[Tensor] = []
    student, b = network(1), batch(black_and_white=True)
    student.register_forward_pre_hook(lambda m, args: seen.append(args[0]) if m.training else None)
    igdm(student, frozen(2), b, PROGRESS, threat=THREAT, base="pgd_at")
    attacked, again, mirrored = seen
    assert torch.equal(attacked, again)
    for u in (attacked, mirrored):
        assert (u - b.x).abs().max() <= EPS + 1e-9
        assert u.min() >= 0
        assert u.max() <= 1
    moved = attacked != b.x
    assert 0.2 < moved.double().mean() < 0.8  # about half are pushed out of the range, and stay
    assert (attacked - mirrored).abs()[moved].min() > 0.4 * EPS  # black pixels made lighter, and white ones made darker, take part
    assert ((attacked + mirrored) / 2 - b.x).abs().max() <= EPS / 2 + 1e-9


def test_igdm_of_a_small_step_matches_jacobian_vector_products() -> None:
    """For small differences a and t, KL(softmax(t) || softmax(a)) is half the variance of t - a over equally likely classes."""
    student, teacher, b = network(1).eval(), frozen(2), batch()
    v = torch.randn(b.x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    b = Batch(b.x * 0.8 + 0.1, b.y, b.row)
    with torch.no_grad():
        attacked = b.x + 1e-4 * v
        term = gap(student, teacher, b.x, attacked, student(attacked), teacher(attacked))
    ours, theirs = (torch.autograd.functional.jvp(m, b.x, v)[1] for m in (student, teacher))
    assert torch.allclose(term / (2e-4) ** 2, (theirs - ours).var(1, correction=0) / 2, rtol=1e-2)


def test_igdm_needs_a_base_that_attacks() -> None:
    student, teacher, b = network(1), frozen(2), batch()
    known = objectives.OBJECTIVES | {"igdm": igdm, "saad": saad, "mtard": mtard, "gradnorm": gradnorm, "n_fgsm": n_fgsm}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objectives, "OBJECTIVES", known)
        for base, message in {
            "tradez": "unknown base 'tradez': did you mean 'trades'.*pgd_at",
            "kd": "cannot add to 'kd'",
            "kdiga": "cannot add to 'kdiga', which attacks nothing",
            "gradnorm": "cannot add to 'gradnorm', which attacks nothing",
            "mtard": "cannot add to 'mtard': .*one teacher",
            "advfunmatch": "cannot add to 'advfunmatch'",
            "igdm": "has the term already",
            "saad": "has the term already",
        }.items():
            with pytest.raises(BadInput, match=message):
                igdm(student, teacher, b, PROGRESS, threat=THREAT, base=base)
        with pytest.raises(BadInput, match="n_fgsm has no option 'steps'"):
            igdm(student, teacher, b, PROGRESS, threat=THREAT, base="n_fgsm", steps=3)


def test_igdm_hands_the_attacks_options_to_its_base() -> None:
    student, teacher, b = network(1), frozen(2), batch()
    far = []
    for options in ({"steps": 1, "step_size": 0.02}, {"steps": 2, "step_size": 0.02}, {}):
        with remembering() as points:
            torch.manual_seed(0)
            objectives.OBJECTIVES["trades"](deepcopy(student), teacher, b, PROGRESS, threat=THREAT, **options)
        seen: list[Tensor] = []
        watched = deepcopy(student)
        watched.register_forward_pre_hook(lambda m, args, seen=seen: seen.append(args[0]) if m.training else None)
        torch.manual_seed(0)
        igdm(watched, teacher, b, PROGRESS, threat=THREAT, base="trades", **options)  # type: ignore[arg-type]
        assert torch.equal(seen[-2], points[0])
        far.append((points[0] - b.x).abs().max().item())
    assert far == pytest.approx([0.02, 0.04, EPS], abs=0.005)


# SAAD


@pytest.mark.parametrize("clean_weight", [0.0, 0.2])
def test_saad_is_its_formula(clean_weight: float) -> None:
    def transcription(student: nn.Module, teacher: nn.Module, b: Batch) -> dict[str, list[Tensor]]:
        clean = teacher(b.x)
        rise = slope(teacher, b.x, lambda i, z: z[int(b.y[i])]).detach()

        def target(i: int, u: Tensor) -> Tensor:
            logits = [clean[i, c] + (rise[i] * (u - b.x[i])).sum() if c == b.y[i] else clean[i, c] for c in range(4)]
            return torch.stack(logits)

        u = climb(student, b, lambda i, z, point: divergence(target(i, point), z), noisy(b))
        mirror = (2 * b.x - u).clamp(0, 1)
        z, reference = student(u), teacher(u)
        ours, theirs = z - student(mirror), reference - teacher(mirror)
        h = [entropy(reference[i]) for i in range(len(b.x))]
        w = [5 * (v - min(h)) for v in h]
        terms = {
            "adv": lambda i: w[i] * divergence(reference[i], z[i]),
            "igdm": lambda i: PROGRESS * 3 * w[i] * divergence(theirs[i], ours[i]),
        }
        if clean_weight:
            z_clean = student(b.x)
            terms["clean"] = lambda i: clean_weight * (1 - w[i] / max(w)) * divergence(clean[i], z_clean[i])
        return rows(terms, b)

    same(saad, transcription, batch(), threat=THREAT, igdm_weight=3.0, clean_weight=clean_weight)


def test_saad_weighs_by_the_teachers_entropy_at_the_attacked_image() -> None:
    student, teacher, b = toys()
    with remembering() as points:
        terms = saad(student, teacher, b, 0.5, threat=THREAT, entropy_scale=2.0, igdm_weight=4.0)
    u, d = points[0], (points[0] - b.x).flatten(1)
    p, q = torch.softmax(teacher(u), 1), torch.softmax(student(u), 1)
    h = -(p * p.log()).sum(1)
    w = 2 * (h - h.min())
    assert torch.allclose(terms["adv"], w * (p * (p / q).log()).sum(1))
    p, q = torch.softmax(2 * d @ teacher.w.T, 1), torch.softmax(2 * d @ student.w.T, 1)
    assert torch.allclose(terms["igdm"], 0.5 * 4 * w * (p * (p / q).log()).sum(1))
    assert terms["adv"].min() == 0  # where the teacher is surest


def test_saads_weights_are_finite_where_all_entropies_agree() -> None:
    student, _, b = toys()
    teacher = Linear(2).requires_grad_(False)
    teacher.w.zero_()
    terms = saad(student, teacher, b, 0.5, threat=THREAT, clean_weight=0.2)
    uniform_kl = (-math.log(3) - torch.log_softmax(student(b.x), 1)).mean(1)
    assert torch.allclose(terms["clean"], 0.2 * uniform_kl)
    assert terms["adv"].abs().max() == 0


# MTARD


def test_mtard_shifts_weight_to_the_branch_that_has_learnt_less() -> None:
    student, teacher, b = toys(2)
    standard, memory = Linear(3, 2).requires_grad_(False), dict[str, Tensor]()

    def step() -> tuple[Tensor, Tensor, Terms]:
        terms = mtard(student, teacher, b, 0.0, threat=THREAT, standard_teacher=standard, memory=memory, weight_lr=0.2)
        kls = []
        for model, x in ((teacher, student.worst(b)), (standard, b.x)):
            p, q = torch.softmax(model(x), 1), torch.softmax(student(x), 1)
            kls.append((p * (p / q).log()).sum(1).detach())
        return kls[0], kls[1], terms

    adv, clean, terms = step()
    assert torch.allclose(terms["adv"], adv / 2)  # at the first step both have learnt nothing
    assert torch.allclose(terms["clean"], clean / 2)
    first, w = (adv.mean(), clean.mean()), torch.tensor(0.5, dtype=torch.float64)
    kept = dict(memory)
    for change in (0.5, -0.3, 0.2):
        with torch.no_grad():
            student.w.add_(torch.randn(2, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64), alpha=change)
        adv, clean, terms = step()
        left_adv, left_clean = adv.mean() / first[0], clean.mean() / first[1]
        w = w - 0.2 * (w - left_clean / (left_adv + left_clean))
        assert torch.allclose(terms["adv"], (1 - w) * adv)
        assert torch.allclose(terms["clean"], w * clean)
    assert abs(w.item() - 0.5) > 0.01
    assert kept["w"] == 0.5  # memory was assigned to, not written into
    assert not any(v.requires_grad for v in memory.values())
    assert all(v.ndim == 0 for v in memory.values())


def test_mtard_is_its_formula() -> None:
    memory = {k: torch.tensor(v, dtype=torch.float64) for k, v in {"first_adv": 0.3, "first_clean": 0.9, "w": 0.4}.items()}

    def transcription(student: nn.Module, teacher: nn.Module, b: Batch) -> dict[str, list[Tensor]]:
        u = climb(student, b, lambda i, z, _: label_loss(z, b.y[i]), noisy(b))
        z, z_clean, robust, standard = student(u), student(b.x), teacher(u), frozen(4)(b.x)
        adv = [divergence(robust[i], z[i]) for i in range(len(b.x))]
        clean = [divergence(standard[i], z_clean[i]) for i in range(len(b.x))]
        left_adv = sum(v.item() for v in adv) / len(adv) / 0.3
        left_clean = sum(v.item() for v in clean) / len(clean) / 0.9
        w = 0.4 - 0.025 * (0.4 - left_clean / (left_adv + left_clean))
        return rows({"adv": lambda i: (1 - w) * adv[i], "clean": lambda i: w * clean[i]}, b)

    same(mtard, transcription, batch(), threat=THREAT, standard_teacher=frozen(4), memory=memory)


def test_mtard_survives_a_branch_that_starts_without_loss() -> None:
    student, teacher, b = toys(2)
    twin, memory = deepcopy(student).requires_grad_(False), dict[str, Tensor]()
    for _ in range(2):
        terms = mtard(student, teacher, b, 0.0, threat=THREAT, standard_teacher=twin, memory=memory)
        assert all(t.isfinite().all() for t in terms.values())
        with torch.no_grad():
            student.w.add_(0.1)


# DGAD


def test_dgad_is_its_formula() -> None:
    b = batch(30)

    def swapped(z: Tensor, y: Tensor) -> Tensor:
        z, best, label = z.clone(), int(z.argmax()), int(y)
        z[best], z[label] = z[label].clone(), z[best].clone()
        return z

    def transcription(student: nn.Module, teacher: nn.Module, b: Batch) -> dict[str, list[Tensor]]:
        def disagreement(i: int, z: Tensor, u: Tensor) -> Tensor:
            return divergence(teacher(u[None])[0], z)

        u = climb(student, b, disagreement, noisy(b))
        clean, attacked, z_clean, z = teacher(b.x), teacher(u), student(b.x), student(u)
        right = [bool(clean[i].argmax() == b.y[i]) for i in range(len(b.x))]
        fooled = [r and bool(attacked[i].argmax() != b.y[i]) for i, r in enumerate(right)]
        assert {True, False} == set(right), "not both cases are tested"
        assert any(fooled), "no swap at the attacked image is tested"

        def kd(i: int) -> Tensor:
            if right[i]:
                return divergence(swapped(attacked[i], b.y[i]), z[i])
            return divergence(swapped(clean[i], b.y[i]), z_clean[i])

        def consistency(i: int) -> Tensor:
            p, q = distribution(z[i]), distribution(z_clean[i])
            return 2 * sum(((v - w) ** 2 for v, w in zip(p, q, strict=True)), torch.zeros(())) / 4

        return rows({"kd": kd, "pcr": consistency}, b)

    b = Batch(b.x, torch.where(torch.arange(30) < 20, frozen(2)(b.x).argmax(1), b.y), b.row)  # the teacher gets most of them right
    same(dgad, transcription, b, threat=THREAT, pcr_weight=2.0)


def test_dgad_distils_the_clean_image_where_the_teacher_is_wrong() -> None:
    student, teacher, b = toys(2)
    target = teacher(b.x)
    b = Batch(b.x, 1 - target.argmax(1), b.row)
    terms = dgad(student, teacher, b, 0.0, threat=THREAT)
    p, q = torch.softmax(target, 1).flip(1), torch.softmax(student(b.x), 1)
    assert torch.allclose(terms["kd"], (p * (p / q).log()).sum(1))


# IGD, IGAM, PAG, GradNorm


def test_igd_of_linear_models_turns_one_gradient_to_the_other() -> None:
    student, teacher, b = toys()
    terms = igd(student, None, b, 0.0, threat=THREAT, standard_teacher=teacher, igd_weight=3.0)
    a, g = student.slope(b.x, b.y), teacher.slope(b.x, b.y)
    assert torch.allclose(terms["igd"], 3 * (1 - nn.functional.cosine_similarity(a, g)))


def test_igd_is_its_formula() -> None:
    def transcription(student: nn.Module, teacher: nn.Module, b: Batch) -> dict[str, list[Tensor]]:
        u = climb(student, b, lambda i, z, _: label_loss(z, b.y[i]), uniform(b))
        z = student(u)
        a = slope(student, b.x, lambda i, z: label_loss(z, b.y[i]))
        g = slope(teacher, b.x, lambda i, z: label_loss(z, b.y[i])).detach()
        return rows({"ce": lambda i: label_loss(z[i], b.y[i]), "igd": lambda i: 1 - cosine(a[i], g[i])}, b)

    def ours(student: nn.Module, teacher: nn.Module, b: Batch, progress: float) -> Terms:
        return igd(student, None, b, progress, threat=THREAT, standard_teacher=teacher)

    same(ours, transcription, batch())


def test_an_angle_with_a_vanishing_gradient_says_and_teaches_nothing() -> None:
    a = torch.tensor([[0.0, 0.0], [3.0, 0.0], [1.0, 1.0], [1.0, 2.0]]).view(4, 1, 1, 2).requires_grad_()
    b = torch.tensor([[1.0, 2.0], [0.0, 0.0], [2.0, 0.0], [-1.0, -2.0]]).view(4, 1, 1, 2)
    values = angle(a, b)
    assert torch.allclose(values, torch.tensor([0.0, 0.0, 1 - 0.5**0.5, 2.0]))
    (g,) = torch.autograd.grad(values.sum(), a)
    assert g.isfinite().all()
    assert g[:2].abs().max() == 0
    assert g[2].abs().max() > 0.1


def test_igam_of_linear_models_matches_gradients_of_a_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand_like", lambda x: torch.full_like(x, 0.8))
    student, teacher, b = toys()
    terms = igam(student, teacher, b, 0.9, threat=THREAT, igam_weight=2.0)
    u = b.x + 0.6 * EPS
    p_s, p_t = (torch.softmax(m(u), 1)[torch.arange(5), b.y] for m in (student, teacher))
    gap = -p_s[:, None] * student.slope(u, b.y) + p_t[:, None] * teacher.slope(u, b.y)  # grad p = -p grad CE
    assert torch.allclose(terms["igam"], 2 * (gap**2).sum(1))
    assert torch.allclose(terms["ce"], nn.functional.cross_entropy(student(u), b.y, reduction="none"))


def test_igam_is_its_formula() -> None:
    def transcription(student: nn.Module, teacher: nn.Module, b: Batch) -> dict[str, list[Tensor]]:
        u = uniform(b).requires_grad_()
        z = student(u)
        chosen = [distribution(z[i])[int(b.y[i])] for i in range(len(b.x))]
        (j,) = torch.autograd.grad(torch.stack(chosen).sum(), u, create_graph=True)
        g = slope(teacher, u.detach(), lambda i, t: distribution(t)[int(b.y[i])]).detach()
        return rows({"ce": lambda i: label_loss(z[i], b.y[i]), "igam": lambda i: 0.005 * ((j[i] - g[i]) ** 2).sum()}, b)

    same(igam, transcription, batch(), threat=THREAT, begin=0.6)


def test_igam_matches_nothing_before_its_time() -> None:
    student, teacher, b = toys()
    assert list(igam(student, teacher, b, 0.874, threat=THREAT)) == ["ce"]
    assert list(igam(student, teacher, b, 0.875, threat=THREAT)) == ["ce", "igam"]


def test_pag_of_linear_models_turns_every_classs_gradient() -> None:
    student, teacher, b = toys()
    terms = pag(student, teacher, b, 0.0, pag_weight=2.0)
    total = torch.zeros(5, dtype=torch.float64)
    for c in range(3):
        y = torch.full((5,), c)
        total = total + 1 - nn.functional.cosine_similarity(student.slope(b.x, y), teacher.slope(b.x, y))
    assert torch.allclose(terms["pag"], 2 * total / 3)
    assert torch.allclose(terms["ce"], nn.functional.cross_entropy(student(b.x), b.y, reduction="none"))


@pytest.mark.parametrize("classes", [10, 2])
def test_pag_is_its_formula(classes: int) -> None:
    def transcription(student: nn.Module, teacher: nn.Module, b: Batch) -> dict[str, list[Tensor]]:
        torch.manual_seed(5)
        order = torch.rand_like(torch.empty(len(b.x), 4, dtype=torch.float64))
        chosen = [[c for _, c in sorted((v.item(), c) for c, v in enumerate(row))][:classes] for row in order]
        x = b.x.clone().requires_grad_()
        z_train = student(b.x)
        student.eval()
        z, target = student(x), teacher(x)
        angles: list[list[Tensor]] = [[] for _ in b.x]
        for c in range(4):
            ours, theirs = (torch.stack([-label_loss(v, torch.tensor(c)) for v in logits]).sum() for logits in (z, target))
            (a,) = torch.autograd.grad(ours, x, create_graph=True)
            (g,) = torch.autograd.grad(theirs, x, retain_graph=True)
            for i in range(len(x)):
                if c in chosen[i]:
                    angles[i].append(1 - cosine(a[i], g[i]))
        return rows(
            {"ce": lambda i: label_loss(z_train[i], b.y[i]), "pag": lambda i: 15 * torch.stack(angles[i]).sum() / len(angles[i])}, b
        )

    same(pag, transcription, batch(), classes=classes)


def test_pag_draws_other_classes_for_every_image() -> None:
    student, teacher, b = toys()
    b = Batch(b.x[:1].repeat(30, 1, 1, 1), b.y[:1].repeat(30), torch.arange(30))
    one = {round(v.item(), 9) for v in pag(student, teacher, b, 0.0, classes=1)["pag"]}
    assert len(one) == 3
    assert len({round(v.item(), 9) for v in pag(student, teacher, b, 0.0, classes=2)["pag"]}) == 3  # never a class twice


@pytest.mark.parametrize(("norm", "order"), [(math.inf, 1), (2.0, 2)])
def test_gradnorm_of_a_linear_model_is_the_dual_norm_of_its_gradient(norm: float, order: int) -> None:
    student, _, b = toys()
    terms = gradnorm(student, None, b, 0.5, threat=Threat(norm=norm, eps=0.3), ce_weight=0.7, grad_weight=2.0)
    g = student.slope(b.x, b.y)
    assert torch.allclose(terms["grad"], 2 * 0.3 * (g.abs() ** order).sum(1) ** (1 / order))
    assert torch.allclose(terms["ce"], 0.7 * nn.functional.cross_entropy(student(b.x), b.y, reduction="none"))


def test_gradnorm_is_its_formula() -> None:
    def transcription(student: nn.Module, teacher: nn.Module, b: Batch) -> dict[str, list[Tensor]]:
        x = b.x.clone().requires_grad_()
        z = student(x)
        losses = [label_loss(z[i], b.y[i]) for i in range(len(x))]
        (g,) = torch.autograd.grad(torch.stack(losses).sum(), x, create_graph=True)
        return rows({"ce": lambda i: 0.8 * losses[i], "grad": lambda i: 1.2 * PROGRESS / 0.8 * EPS * g[i].abs().sum()}, b)

    same(gradnorm, transcription, batch(), threat=THREAT, ramp=0.8)


def test_gradnorms_penalty_rises_and_stays() -> None:
    student, _, b = toys()
    full = gradnorm(student, None, b, 0.9, threat=THREAT)["grad"]
    for progress, ramp, share in ((0.0, 0.05, 0.0), (0.025, 0.05, 0.5), (0.05, 0.05, 1.0), (0.0, 0.0, 1.0)):
        assert torch.allclose(gradnorm(student, None, b, progress, threat=THREAT, ramp=ramp)["grad"], share * full)
