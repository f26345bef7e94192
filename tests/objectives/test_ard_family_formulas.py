"""The ARD family against its formulas: closed forms on two-class linear models, and transcriptions with loops over samples and classes."""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdiga.objectives import OBJECTIVES, adaad, adaiad, advfunmatch, akd, ard, iad, kdiga_ard_a, kdiga_ard_c, rslad
from kdiga.types import Batch, Terms, Threat

EPS = 0.1
THREAT = Threat(norm=math.inf, eps=EPS)


# Closed forms: with two classes all depends on the margin, logit 1 less logit 0, which is linear in the image.


class Linear(nn.Module):
    """Logits W x for 1 x 2 x 2 images and two classes; the worst a ball can do is to move the margin by `reach` either way."""

    def __init__(self, seed: int, scale: float = 1.0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(scale * torch.randn(2, 4, generator=g, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w.T

    def margin(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.direction

    @property
    def direction(self) -> Tensor:
        return self.w[1] - self.w[0]

    @property
    def reach(self) -> Tensor:
        return EPS * self.direction.abs().sum()


def batch(n: int = 5) -> Batch:
    g = torch.Generator().manual_seed(0)
    x = 0.3 + 0.4 * torch.rand(n, 1, 2, 2, generator=g, dtype=torch.float64)
    return Batch(x, torch.randint(2, (n,), generator=g), torch.arange(n))


def two_class_kl(target: Tensor, z: Tensor) -> Tensor:
    """KL between the distributions with these margins."""
    p, q = torch.sigmoid(target), torch.sigmoid(z)
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


def label_loss(z: Tensor, y: Tensor) -> Tensor:
    return torch.log1p(torch.exp((1 - 2 * y) * z))


def models() -> tuple[Linear, Linear, Batch]:
    return Linear(1), Linear(2).requires_grad_(False), batch()


def against_the_label(student: Linear, b: Batch) -> Tensor:
    """The student's margin at the point of greatest cross-entropy."""
    return student.margin(b.x) + (1 - 2 * b.y) * student.reach


def test_ard_shows_the_teacher_the_clean_image() -> None:
    student, teacher, b = models()
    terms = ard(student, teacher, b, 0.0, threat=THREAT, kd_weight=0.7, ce_weight=0.2)
    target, worst = teacher.margin(b.x) / 30, against_the_label(student, b) / 30
    assert torch.allclose(terms["kd"], 0.7 * 900 * two_class_kl(target, worst))
    assert torch.allclose(terms["ce"], 0.2 * label_loss(student.margin(b.x), b.y))


def test_akd_shows_both_the_attacked_image() -> None:
    student, teacher, b = models()
    terms = akd(student, teacher, b, 0.0, threat=THREAT, kd_weight=0.7, ce_weight=0.2)
    worst = against_the_label(student, b)
    moved = b.x + (EPS * (1 - 2 * b.y)[:, None] * student.direction.sign()).view_as(b.x)
    assert torch.allclose(terms["kd"], 0.7 * two_class_kl(teacher.margin(moved), worst))
    assert torch.allclose(terms["ce"], 0.2 * label_loss(worst, b.y))


def test_iad_listens_to_the_student_where_the_teacher_doubts_the_label() -> None:
    student, teacher, b = models()
    terms = iad(student, teacher, b, 0.3, threat=THREAT, beta=0.5)
    worst = against_the_label(student, b)
    moved = b.x + (EPS * (1 - 2 * b.y)[:, None] * student.direction.sign()).view_as(b.x)
    trust = torch.sigmoid((2 * b.y - 1) * teacher.margin(moved)).sqrt()
    assert torch.allclose(terms["kd"], two_class_kl(teacher.margin(b.x), worst))
    assert torch.allclose(terms["introspection"], (1 - trust) * two_class_kl(student.margin(b.x), worst))


@pytest.mark.parametrize("where", ["clean", "attacked"])
def test_kdiga_ard_aligns_gradients_at_its_point(where: str) -> None:
    student, teacher, b = models()
    objective = kdiga_ard_c if where == "clean" else kdiga_ard_a
    terms = objective(student, teacher, b, 0.0, threat=THREAT, iga_weight=3.0)
    worst = b.x + (EPS * (1 - 2 * b.y)[:, None] * student.direction.sign()).view_as(b.x)
    u = b.x if where == "clean" else worst
    g_student, g_teacher = ((torch.sigmoid(m.margin(u)) - b.y)[:, None] * m.direction for m in (student, teacher))
    assert torch.allclose(terms["iga"], 3 * (g_student - g_teacher).pow(2).sum(1).sqrt())
    assert torch.allclose(terms["kd"], 0.5 * two_class_kl(teacher.margin(worst), student.margin(worst)))
    assert torch.allclose(terms["ce"], 0.5 * label_loss(student.margin(b.x), b.y))


def test_rslad_moves_away_from_the_teachers_clean_prediction() -> None:
    student, teacher, b = models()
    terms = rslad(student, teacher, b, 0.0, threat=THREAT)
    ours, target = student.margin(b.x), teacher.margin(b.x)
    assert torch.allclose(terms["adv"], 5 / 6 * two_class_kl(target, ours + (ours - target).sign() * student.reach))
    assert torch.allclose(terms["clean"], 1 / 6 * two_class_kl(target, ours))


def doubled() -> tuple[Linear, Linear, Batch]:
    """A student and a teacher with twice its margin. They disagree the more, the further both are from zero; away from a fixed
    target, the student goes to zero instead."""
    student, b = Linear(1, scale=0.3), batch()
    teacher = deepcopy(student).requires_grad_(False)
    teacher.w.mul_(2)
    assert student.margin(b.x).abs().min() > 0.02  # beyond what the noise of the start can undo
    assert student.margin(b.x).abs().max() < 0.8
    return student, teacher, b


def apart(student: Linear, x: Tensor) -> Tensor:
    margin = student.margin(x)
    return margin + margin.sign() * student.reach


def test_adaad_goes_where_the_networks_disagree_most() -> None:
    student, teacher, b = doubled()
    terms = adaad(student, teacher, b, 0.0, threat=THREAT, adv_weight=0.7, clean_weight=0.2)
    worst, clean = apart(student, b.x), student.margin(b.x)
    assert torch.allclose(terms["adv"], 0.7 * two_class_kl(2 * worst, worst))
    assert torch.allclose(terms["clean"], 0.2 * two_class_kl(2 * clean, clean))
    fixed = adaad(student, teacher, b, 0.0, threat=THREAT, teacher_in_attack=False)
    other = clean - clean.sign() * student.reach
    assert torch.allclose(fixed["adv"], two_class_kl(2 * other, other))


def test_adaiad_is_adaads_attack_with_introspection() -> None:
    student, teacher, b = doubled()
    terms = adaiad(student, teacher, b, 0.3, threat=THREAT, temperature=5.0, beta=0.5)
    worst = apart(student, b.x)
    trust = torch.sigmoid((2 * b.y - 1) * 2 * worst).sqrt()
    assert torch.allclose(terms["kd"], 25 * two_class_kl(2 * worst / 5, worst / 5))
    assert torch.allclose(terms["introspection"], (1 - trust) * two_class_kl(student.margin(b.x), worst))


def test_advfunmatch_is_adaad_on_mixed_images(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, b = doubled()
    share = torch.tensor([0.0, 0.1, 0.4, 0.7, 1.0], dtype=torch.float64).view(5, 1, 1, 1)
    monkeypatch.setattr(torch, "rand_like", lambda _: share)
    monkeypatch.setattr(torch, "randperm", lambda n, **_: torch.arange(n).flip(0))
    worst = apart(student, share * b.x + (1 - share) * b.x.flip(0))
    terms = advfunmatch(student, teacher, b, 0.0, threat=THREAT)
    assert torch.allclose(terms["adv"], two_class_kl(2 * worst, worst))
    mislabelled = Batch(b.x, 1 - b.y, b.row)
    assert torch.allclose(advfunmatch(student, teacher, mislabelled, 0.0, threat=THREAT)["adv"], terms["adv"])


# Parity: each formula transcribed with loops, on convolutional networks with BatchNorm.


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    statistics, last = nn.BatchNorm2d(4), nn.Linear(36, 3)
    for buffer, low, high in ((statistics.running_mean, -0.2, 0.2), (statistics.running_var, 0.5, 1.5)):
        assert buffer is not None
        buffer.uniform_(low, high)  # what evaluation mode uses is not what training mode uses
    last.weight.data *= 4  # confident enough for wrong losses to be far from right ones
    return nn.Sequential(nn.Conv2d(2, 4, 3), statistics, nn.SiLU(), nn.Flatten(), last).double()


def images() -> Batch:
    g = torch.Generator().manual_seed(3)
    x = torch.rand(4, 2, 5, 5, generator=g, dtype=torch.float64)
    return Batch(x.where(x > 0.2, 0.0), torch.tensor([0, 2, 1, 2]), torch.arange(4))


def probabilities(z: Tensor, temperature: float = 1.0) -> list[list[Tensor]]:
    return [[(row[c] / temperature).exp() / sum((v / temperature).exp() for v in row) for c in range(3)] for row in z]


def divergence(target: Tensor, z: Tensor, temperature: float = 1.0) -> Tensor:
    p, q = probabilities(target, temperature), probabilities(z, temperature)
    return torch.stack(
        [
            temperature**2 * sum((a[c] * (a[c].log() - b[c].log()) for c in range(3)), z.new_zeros(()))
            for a, b in zip(p, q, strict=True)
        ]
    )


def entropy(z: Tensor, y: Tensor) -> Tensor:
    return torch.stack([-p[k].log() for p, k in zip(probabilities(z), y.tolist(), strict=True)])


def ascend(model: nn.Module, loss: Callable[[Tensor, int], Tensor], x: Tensor, start: Tensor, o: dict[str, Any]) -> Tensor:
    """Each image on its own, by a model in evaluation mode: ten steps of a quarter of eps unless `o` says otherwise."""
    model.eval()
    found = []
    for i in range(len(x)):
        low, high = (x[i] - EPS).clamp(min=0), (x[i] + EPS).clamp(max=1)
        u = start[i].clamp(low, high)
        for _ in range(o["steps"]):
            u.requires_grad_()
            (g,) = torch.autograd.grad(loss(u[None], i), u)
            u = (u.detach() + o["step_size"] * g.sign()).clamp(low, high)
        found.append(u)
    model.train()
    return torch.stack(found)


def label_attack(s: nn.Module, b: Batch, o: dict[str, Any]) -> Tensor:
    start = b.x - EPS + 2 * EPS * torch.rand(b.x.shape, dtype=torch.float64)
    return ascend(s, lambda u, i: entropy(s(u), b.y[i : i + 1]).sum(), b.x, start, o)


def disagreement(s: nn.Module, target: Callable[[Tensor, int], Tensor], x: Tensor, o: dict[str, Any]) -> Tensor:
    start = x + o["start_noise"] * torch.randn(x.shape, dtype=torch.float64)
    return ascend(s, lambda u, i: divergence(target(u, i), s(u)).sum(), x, start, o)


def lengths(v: Tensor) -> Tensor:
    return torch.stack([sum((c**2 for c in row.flatten()), v.new_zeros(())).sqrt() for row in v])


def label_gradient(model: nn.Module, u: Tensor, y: Tensor, graph: bool) -> Tensor:
    """Of the sum over samples: the batch size times the gradient of the mean."""
    u = u.detach().requires_grad_()
    return len(u) * torch.autograd.grad(entropy(model(u), y).mean(), u, create_graph=graph)[0]


def expected(name: str, s: nn.Module, t: nn.Module, b: Batch, progress: float, o: dict[str, Any]) -> Terms:
    """The formula of `name`; `o` holds every option that it reads. The teacher's outputs are constants, the student's are not."""

    def teacher(u: Tensor) -> Tensor:
        with torch.no_grad():
            z: Tensor = t(u)
        return z

    def trust(u: Tensor) -> Tensor:
        return torch.stack([p[k] ** o["beta"] for p, k in zip(probabilities(teacher(u)), b.y.tolist(), strict=True)])

    if name == "rslad":
        fixed = teacher(b.x)
        adv = disagreement(s, lambda _, i: fixed[i : i + 1], b.x, o)
        return {"adv": o["adv_weight"] * divergence(fixed, s(adv)), "clean": o["clean_weight"] * divergence(fixed, s(b.x))}
    if name == "advfunmatch":
        ratio = torch.rand(len(b.x), 1, 1, 1, dtype=torch.float64)
        partner = torch.randperm(len(b.x)).tolist()
        mixed = torch.stack([ratio[i] * b.x[i] + (1 - ratio[i]) * b.x[j] for i, j in enumerate(partner)])
        adv = disagreement(s, lambda u, _: t(u), mixed, o)
        return {"adv": divergence(teacher(adv), s(adv))}
    adv = disagreement(s, lambda u, _: t(u), b.x, o) if name in ("adaad", "adaiad") else label_attack(s, b, o)
    if name == "adaad":
        terms = {"adv": o["adv_weight"] * divergence(teacher(adv), s(adv))}
        if o["clean_weight"]:
            terms["clean"] = o["clean_weight"] * divergence(teacher(b.x), s(b.x))
    elif name in ("iad", "adaiad"):
        terms = {"kd": divergence(teacher(b.x if name == "iad" else adv), s(adv), o["temperature"])}
        if progress >= o["begin"]:
            terms["introspection"] = (1 - trust(adv)) * divergence(s(b.x), s(adv))
    else:
        target = {"ard": b.x, "akd": adv, "attacked": adv, "clean": b.x}[o.get("target", name)]
        terms = {"kd": o["kd_weight"] * divergence(teacher(target), s(adv), o.get("temperature", 1.0))}
        if o["ce_weight"]:
            terms["ce"] = o["ce_weight"] * entropy(s(adv if name == "akd" else b.x), b.y)
        if name.startswith("kdiga"):
            u = b.x if name == "kdiga_ard_c" else adv
            gap = label_gradient(s, u, b.y, True) - label_gradient(t, u, b.y, False)
            terms["iga"] = o["iga_weight"] * lengths(gap)
    return terms


SEARCH = {"steps": 10, "step_size": EPS / 4}
NOISE = SEARCH | {"start_noise": 0.001}
IGA = SEARCH | {"ce_weight": 0.5, "kd_weight": 0.5, "iga_weight": 1.0, "temperature": 1.0, "target": "attacked"}
DEFAULTS: dict[str, dict[str, Any]] = {
    "ard": SEARCH | {"ce_weight": 0.0, "kd_weight": 1.0, "temperature": 30.0},
    "akd": SEARCH | {"ce_weight": 0.5, "kd_weight": 0.5},
    "iad": SEARCH | {"beta": 0.1, "begin": 0.3, "temperature": 1.0},
    "kdiga_ard_c": IGA,
    "kdiga_ard_a": IGA,
    "rslad": NOISE | {"adv_weight": 5 / 6, "clean_weight": 1 / 6},
    "adaad": NOISE | {"adv_weight": 1.0, "clean_weight": 0.0},
    "adaiad": NOISE | {"beta": 0.1, "begin": 0.3, "temperature": 1.0},
    "advfunmatch": NOISE,
}
SHORT = {"steps": 2, "step_size": 0.03}
CASES: list[tuple[str, float, dict[str, Any]]] = [
    *((name, progress, {}) for name in DEFAULTS for progress in ((0.29, 0.3) if "iad" in name else (0.0,))),
    ("ard", 0.0, SHORT | {"kd_weight": 0.6, "ce_weight": 0.3, "temperature": 2.0}),
    ("akd", 0.0, SHORT | {"kd_weight": 0.6, "ce_weight": 0.3}),
    ("iad", 0.9, SHORT | {"beta": 0.7, "begin": 0.8, "temperature": 2.0}),
    ("kdiga_ard_c", 0.0, SHORT | {"ce_weight": 0.6, "kd_weight": 0.3, "iga_weight": 2.0, "temperature": 3.0, "target": "clean"}),
    ("kdiga_ard_a", 0.0, SHORT | {"ce_weight": 0.6, "kd_weight": 0.3, "iga_weight": 2.0, "temperature": 3.0, "target": "clean"}),
    ("rslad", 0.0, SHORT | {"adv_weight": 0.3, "clean_weight": 0.6, "start_noise": 0.05}),
    ("adaad", 0.0, SHORT | {"adv_weight": 0.75, "clean_weight": 0.25, "start_noise": 0.05}),
    ("adaiad", 0.9, SHORT | {"beta": 0.7, "begin": 0.8, "temperature": 2.0, "start_noise": 0.05}),
    ("advfunmatch", 0.0, SHORT | {"start_noise": 0.05}),
]


@pytest.mark.parametrize(("name", "progress", "options"), CASES)
def test_terms_and_gradients_are_the_transcribed_formulas(name: str, progress: float, options: dict[str, Any]) -> None:
    student, teacher, b = network(1).train(), network(2).eval().requires_grad_(False), images()
    twin = deepcopy(student)
    torch.manual_seed(5)
    ours = OBJECTIVES[name](student, teacher, b, progress, threat=THREAT, **options)
    torch.manual_seed(5)
    theirs = expected(name, twin, teacher, b, progress, DEFAULTS[name] | options)
    assert ours.keys() == theirs.keys()
    for term, values in ours.items():
        assert torch.allclose(values, theirs[term], rtol=1e-9, atol=1e-12), term
        gradients = [
            torch.autograd.grad(v.mean(), list(m.parameters()), retain_graph=True, materialize_grads=True, allow_unused=True)
            for m, v in ((student, values), (twin, theirs[term]))
        ]
        assert all(torch.allclose(g, h, rtol=1e-7, atol=1e-10) for g, h in zip(*gradients, strict=True)), term


# Options and cost.


def run(name: str, progress: float = 0.5, **options: Any) -> tuple[Terms, int, int]:
    """The terms, and how often the student in training mode and the teacher were evaluated."""
    student, teacher = network(1).train(), network(2).eval().requires_grad_(False)
    outer: list[bool] = []
    teacher_calls: list[int] = []
    student.register_forward_hook(lambda m, *_: outer.append(m.training))
    teacher.register_forward_hook(lambda *_: teacher_calls.append(0))
    torch.manual_seed(5)
    terms = OBJECTIVES[name](student, teacher, images(), progress, threat=THREAT, **options)
    assert student.state_dict()["1.num_batches_tracked"] == sum(outer)
    return terms, sum(outer), len(teacher_calls)


@pytest.mark.parametrize(
    ("name", "progress", "options", "terms", "forwards", "teacher_forwards"),
    [
        ("ard", 0.5, {}, {"kd"}, 1, 1),
        ("ard", 0.5, {"ce_weight": 0.5}, {"kd", "ce"}, 2, 1),
        ("akd", 0.5, {}, {"kd", "ce"}, 1, 1),
        ("iad", 0.29, {}, {"kd"}, 1, 1),
        ("iad", 0.3, {}, {"kd", "introspection"}, 2, 2),
        ("kdiga_ard_c", 0.5, {}, {"kd", "iga", "ce"}, 2, 2),
        ("kdiga_ard_c", 0.5, {"target": "clean"}, {"kd", "iga", "ce"}, 2, 1),
        ("kdiga_ard_a", 0.5, {}, {"kd", "iga", "ce"}, 2, 1),
        ("kdiga_ard_a", 0.5, {"ce_weight": 0.0}, {"kd", "iga"}, 1, 1),
        ("rslad", 0.5, {}, {"adv", "clean"}, 2, 1),
        ("rslad", 0.5, {"clean_weight": 0.0}, {"adv"}, 1, 1),
        ("adaad", 0.5, {"steps": 3}, {"adv"}, 1, 4),
        ("adaad", 0.5, {"steps": 3, "teacher_in_attack": False}, {"adv"}, 1, 2),
        ("adaad", 0.5, {"steps": 3, "clean_weight": 0.1}, {"adv", "clean"}, 2, 5),
        ("adaiad", 0.29, {"steps": 3}, {"kd"}, 1, 4),
        ("adaiad", 0.3, {"steps": 3}, {"kd", "introspection"}, 2, 4),
        ("advfunmatch", 0.5, {"steps": 3}, {"adv"}, 1, 4),
    ],
)
def test_no_forward_is_spent_on_a_term_that_is_not_there(
    name: str, progress: float, options: dict[str, Any], terms: set[str], forwards: int, teacher_forwards: int
) -> None:
    found, students, teachers = run(name, progress, **options)
    assert (set(found), students, teachers) == (terms, forwards, teacher_forwards)


@pytest.mark.parametrize("name", DEFAULTS)
def test_an_unfrozen_teacher_is_not_taught(name: str) -> None:
    student, teacher = network(1).train(), network(2).eval()
    terms = OBJECTIVES[name](student, teacher, images(), 0.5, threat=THREAT)
    torch.stack([t.mean() for t in terms.values()]).sum().backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_without_alignment_kdiga_ard_is_ard() -> None:
    plain = run("ard", ce_weight=0.4, kd_weight=0.7)[0]
    for name in ("kdiga_ard_c", "kdiga_ard_a"):
        aligned = run(name, ce_weight=0.4, kd_weight=0.7, iga_weight=0.0, temperature=30.0, target="clean")[0]
        assert aligned["iga"].abs().max() == 0
        assert torch.allclose(aligned["kd"], plain["kd"])
        assert torch.allclose(aligned["ce"], plain["ce"])


@pytest.mark.parametrize("name", ["iad", "adaiad"])
def test_a_trusted_teacher_leaves_no_room_for_introspection(name: str) -> None:
    assert run(name, beta=0.0)[0]["introspection"].abs().max() == 0
    little, more = (run(name, beta=beta)[0]["introspection"] for beta in (0.1, 1.0))
    assert (little > 0).all()
    assert (little < more).all()


def test_advfunmatch_attacks_inside_the_ball_around_the_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand_like", lambda x: torch.full_like(x, 0.75))
    monkeypatch.setattr(torch, "randperm", lambda n, **_: torch.arange(n).roll(1))
    seen: list[Tensor] = []
    student, b = network(1).train(), images()
    b = Batch(b.x.round(), b.y, b.row)  # black and white: the box matters
    student.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    advfunmatch(student, network(2).eval(), b, 0.0, threat=THREAT)
    mixed = 0.75 * b.x + 0.25 * b.x.roll(1, 0)
    points = torch.stack(seen)
    assert (points - mixed).abs().max().item() == pytest.approx(EPS)
    assert points.min() >= 0
    assert points.max() <= 1
