"""Health checks: for each a model that is built to raise it, and for all of them models that raise none."""

import re
from collections.abc import Mapping
from math import inf
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdiga import data
from kdiga.attacks import ATTACKS, autoattack
from kdiga.errors import BadInput
from kdiga.evaluate import Evaluation, evaluate
from kdiga.health import CHECKS, Flag, attacked, behaviour, health, judged, read, write
from kdiga.health.flag import breaks_more
from kdiga.inner import project, random_point
from kdiga.types import Images, Labels, Logits, Threat

THREAT = Threat(norm=inf, eps=0.1)


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoattack, "QUERIES", 300)
    monkeypatch.setattr(attacked, "POINTS", 100)
    monkeypatch.setattr(attacked, "STEPS", {5: 1 / 2, 10: 1 / 4, 30: 1 / 10})


class Mean(nn.Module):
    """Two classes: is the image's mean above 1/2? `change` is what the model does to the image, `scale` is of the logits."""

    def __init__(self, scale: float = 10.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def change(self, x: Images) -> Images:
        return x

    def forward(self, x: Images) -> Logits:
        m = self.scale * (self.change(x).mean((1, 2, 3)) - 0.5)
        return torch.stack([-m, m], 1)


class Rounded(Mean):
    def change(self, x: Images) -> Images:
        return (x * 20).round() / 20


class Cut(Mean):
    def change(self, x: Images) -> Images:
        return x.detach()

    def forward(self, x: Images) -> Logits:
        return super().forward(x).detach()


class Noisy(Mean):
    def change(self, x: Images) -> Images:
        return x + 0.3 * torch.randn_like(x)


class Softmaxed(Mean):
    def forward(self, x: Images) -> Logits:
        return super().forward(x).softmax(1)


def images(n: int = 60, *, near: float = 0.05, far: float = 0.2) -> tuple[Images, Labels]:
    """Means from `near` to `far` away from 1/2, on both sides in turn: `Mean` is robust where that is above eps."""
    g = torch.Generator().manual_seed(0)
    away = torch.linspace(near, far, n)
    y = torch.arange(n) % 2
    x = torch.rand(n, 1, 6, 6, generator=g) * 0.2 - 0.1
    x = x - x.mean((1, 2, 3), keepdim=True) + (0.5 + away * (2 * y - 1))[:, None, None, None]
    return x.clamp(0, 1), y


def asked(model: nn.Module, threat: Threat = THREAT, **given: object) -> dict[str, Flag]:
    x, y = images()
    return {flag.name: flag for flag in health(model, x, y, threat, **given)}  # type: ignore[arg-type]


def raised(flags: Mapping[str, Flag]) -> set[str]:
    return {name for name, flag in flags.items() if flag.raised}


# --- models that are what they seem


@pytest.mark.parametrize("threat", [THREAT, Threat(norm=2.0, eps=0.6)], ids=str)
def test_a_linear_model_raises_nothing_and_every_check_is_made(threat: Threat) -> None:
    flags = asked(Mean().eval(), threat, sources={"steep": Mean(50.0)})
    assert list(flags) == list(CHECKS)
    assert {name: flag.raised for name, flag in flags.items()} == dict.fromkeys(CHECKS, False)
    share = (torch.linspace(0.05, 0.2, 60) > 0.1).float().mean().item()  # 0.6 in l2 is 0.1 in each of 36 pixels
    assert flags["iterations"].numbers["pgd30"] == pytest.approx(share, abs=1e-6)
    assert flags["one-step"].numbers["fgsm"] == pytest.approx(share, abs=1e-6)
    assert flags["transfer"].numbers["broken"] == 0


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Images, Labels]:
    digits = data.load("digits", None)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(288, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    x, y = digits.train.images()[:400], digits.train.y[:400]
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval(), x[:120], y[:120]


@pytest.mark.parametrize("eps", [0.1, 0.4])
def test_a_trained_network_raises_nothing_where_it_is_robust_and_where_it_is_not(
    trained: tuple[nn.Module, Images, Labels], eps: float
) -> None:
    model, x, y = trained
    threat = Threat(norm=inf, eps=eps)
    found = evaluate(model, x, y, threat, attacks=("fgsm", "pgd20", "apgd-ce", "square"))
    flags = health(model, x, y, threat, found=found, sources={"linear": nn.Sequential(nn.Flatten(), nn.Linear(64, 10))})
    assert [flag.raised for flag in flags] == [False] * len(CHECKS), [f.said for f in flags if f.raised]
    assert 0.1 < found.accuracy("pgd20") < 0.9 or eps == 0.4


def test_the_model_and_the_random_state_are_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(32, 2))
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    x, y = images()
    health(model, x, y, THREAT)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


# --- models built to raise a flag


@pytest.mark.parametrize("scale", [3e3, 1e6])
def test_saturated_logits_are_told_from_a_zero_gradient(scale: float) -> None:
    flags = asked(Mean(scale))
    assert raised(flags) >= {"gradients"}
    assert flags["gradients"].numbers["saturated"] == 60
    assert flags["gradients"].numbers["none"] == 0
    assert "APGD-T" in flags["gradients"].said
    assert flags["black-box"].raised is False  # APGD-T breaks what Square does
    assert flags["eps-sweep"].raised


def test_a_confident_model_is_flagged_from_where_float32_rounds_its_probability_to_one() -> None:
    class Lead(nn.Module):
        def forward(self, x: Images) -> Logits:
            m = 100 * (x.mean((1, 2, 3)) - 0.5)
            return torch.stack([torch.zeros_like(m), m], 1)

    leads = torch.tensor([8.0, 10.0, 12.0, 14.0, 16.0, 17.5, 20.0, 30.0])  # log 2^24 is 16.6
    x, y = (0.5 + leads / 100)[:, None, None, None].expand(-1, 1, 4, 4).clone(), torch.ones(8, dtype=torch.int64)
    flag = behaviour.gradients(Lead(), x, y, THREAT)
    assert flag.numbers["saturated"] == 3
    assert flag.numbers["none"] == 0
    assert flag.raised
    assert behaviour.gradients(Lead(), x[:6], y[:6], THREAT).raised is False  # one of six


def test_rounding_the_image_leaves_no_gradient() -> None:
    flags = asked(Rounded())
    assert raised(flags) >= {"gradients", "eps-sweep", "black-box"}
    assert flags["gradients"].numbers["none"] == 60
    assert "BPDA" in flags["gradients"].said


def test_random_points_find_what_a_model_without_gradients_hides() -> None:
    away = torch.linspace(0.06, 0.2, 60)
    x, y = (0.5 + away)[:, None, None, None].expand(-1, 1, 1, 2).clone(), torch.ones(60, dtype=torch.int64)
    for model, found in ((Rounded(), True), (Mean(), False)):  # one corner in four is the one that breaks
        flag = {f.name: f for f in health(model, x, y, THREAT)}["random-search"]
        assert flag.raised is found
        assert (flag.numbers["broken"] > 5) is found


def test_other_models_break_what_a_model_without_gradients_withstands() -> None:
    flags = asked(Rounded(), sources={"far off": _upside_down(), "smooth": Mean()})
    assert flags["transfer"].raised
    assert "PGD-20 on smooth" in flags["transfer"].said
    assert flags["transfer"].numbers["broken_by_far off"] == 0
    assert flags["transfer"].numbers["broken_by_smooth"] == pytest.approx(20, abs=3)  # of the 60 those within eps


def _upside_down() -> nn.Module:
    return Mean(-10.0)


def test_a_model_cut_off_from_its_input_is_flagged_and_not_attacked() -> None:
    flags = asked(Cut())
    assert raised(flags) == {"gradients"}
    assert flags["iterations"].raised is None
    assert "no gradient to attack with" in flags["iterations"].said


@pytest.mark.parametrize(("threat", "slope"), [(THREAT, 36), (Threat(norm=2.0, eps=0.1), 6)], ids=str)
def test_a_slope_too_small_for_float32_across_the_whole_ball_is_none(threat: Threat, slope: int) -> None:
    """Logits of 1 and a margin that changes by eps times `slope` times the slope of a pixel, of which there are 36."""
    x, y = images()

    class Faint(nn.Module):
        def __init__(self, change: float) -> None:
            super().__init__()
            self.pixel = change * 2.0**-23 / (threat.eps * slope)

        def forward(self, x: Images) -> Logits:
            m = self.pixel * x.sum((1, 2, 3))
            return torch.stack([-torch.ones_like(m), m - m.detach()], 1)

    assert behaviour.gradients(Faint(1.5), x, y, threat).numbers["none"] == 0
    assert behaviour.gradients(Faint(0.7), x, y, threat).numbers["none"] == 60


def test_slopes_of_very_different_size_are_flagged() -> None:
    class Cliff(Mean):
        def change(self, x: Images) -> Images:
            cliff = 1e6 * (x - x.detach())  # a slope that no value shows
            return torch.where((torch.arange(len(x)) % 10 == 0)[:, None, None, None], x + cliff, x)

    x, y = images()
    assert behaviour.gradients(Cliff(), x, y, THREAT).raised
    assert behaviour.gradients(Cliff(), x, y, THREAT).numbers["spread"] == pytest.approx(1e6, rel=1e-3)


def test_a_gradient_that_is_not_a_number_is_flagged() -> None:
    class Root(Mean):
        def change(self, x: Images) -> Images:
            return x + (x - x.detach()).abs().sqrt()  # infinite slope at 0

    x, y = images()
    assert behaviour.gradients(Root(), x, y, THREAT).numbers["not_finite"] == 60


def test_randomness_is_flagged() -> None:
    flags = asked(Noisy(), full=False)
    assert raised(flags) == {"randomness"}
    assert "EoT" in flags["randomness"].said


def test_probabilities_are_flagged() -> None:
    assert raised(asked(Softmaxed(), full=False)) == {"probabilities"}


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm2d(1)], ids=["dropout", "batchnorm"])
def test_training_mode_is_flagged_where_it_matters(layer: nn.Module) -> None:
    model = nn.Sequential(layer, Mean())
    assert "training-mode" in raised(asked(model, full=False))
    assert "training-mode" not in raised(asked(model.eval(), full=False))
    assert "training-mode" not in raised(asked(Mean().train(), full=False))


class Trap(Mean):
    """The loss rises to a local maximum at half of eps and falls after it; a whole step of eps gets beyond."""

    def forward(self, x: Images) -> Logits:
        s = (x.mean((1, 2, 3)) - 0.5) / 0.1
        m = torch.where(s < 0.5, s - 1, torch.where(s < 0.9, -s, 10 * (s - 0.9) - 0.5))
        return torch.stack([-m, m], 1)


def test_a_trap_for_small_steps_raises_one_step() -> None:
    x, y = torch.full((40, 1, 6, 6), 0.5), torch.zeros(40, dtype=torch.int64)
    flags = {f.name: f for f in health(Trap(), x, y, THREAT)}
    assert flags["one-step"].raised
    assert flags["one-step"].numbers["fgsm"] == 0
    assert flags["one-step"].numbers["pgd20"] > 0.9


class Dominoes(nn.Module):
    """Only one pixel at a time has a gradient: the next one's turn comes when it has crossed the ball."""

    def forward(self, x: Images) -> Logits:
        u = (x.flatten(1) - 0.4) / 0.2  # 0 to 1 inside the ball around 1/2
        done = (u >= 0.99).cumprod(1)
        first = torch.cat([torch.ones_like(u[:, :1]), done[:, :-1]], 1)
        m = (torch.maximum(done.to(u), first * u)).sum(1) - 8.2
        return torch.stack([-m, m], 1)


def test_an_attack_that_needs_more_steps_raises_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacked, "STEPS", {10: 1 / 4, 50: 1 / 10, 200: 1 / 20})  # as they are
    x, y = torch.full((40, 1, 6, 6), 0.5), torch.zeros(40, dtype=torch.int64)
    flags = {f.name: f for f in health(Dominoes(), x, y, THREAT)}
    assert flags["iterations"].raised
    assert flags["iterations"].numbers["pgd50"] > 0.9
    assert flags["iterations"].numbers["pgd200"] < 0.1


def test_an_attack_that_cannot_cross_the_ball_raises_reach() -> None:
    flag = behaviour.reach({"mine": (7, 0.25), "PGD-20": (20, 0.25)})
    assert flag.raised
    assert "1.75 eps of the 2 eps" in flag.said
    assert behaviour.reach({"PGD-8": (8, 0.25)}).raised is False
    assert behaviour.reach({}).raised is None


# --- what counts


def outcomes(standing: int, n: int = 100) -> Tensor:
    return torch.arange(n) < standing


@pytest.mark.parametrize(
    ("strong", "weak", "expected"),
    [(93, 100, True), (94, 100, False), (100, 100, False), (100, 90, False), (1, 8, True)],
)
def test_seven_images_all_one_way_are_more_than_chance(strong: int, weak: int, expected: bool) -> None:
    found, p = breaks_more(outcomes(strong), outcomes(weak))
    assert found is expected
    assert p == pytest.approx(0.5 ** max(0, weak - strong))


def test_a_difference_below_a_point_does_not_count() -> None:
    assert breaks_more(outcomes(1993, 2000), outcomes(2000, 2000))[0] is False  # p = 0.008, but 0.35 points
    assert breaks_more(outcomes(1979, 2000), outcomes(2000, 2000))[0] is True


def test_accuracy_that_rises_with_eps_is_flagged() -> None:
    falls = {0.1: outcomes(50), 0.2: outcomes(20), 0.4: outcomes(0), 0.8: outcomes(0)}
    assert judged.eps_sweep(falls).raised is False
    assert judged.eps_sweep(falls | {0.4: ~outcomes(40)}).raised
    assert judged.eps_sweep(falls | {0.4: outcomes(2), 0.8: outcomes(2)}).raised is False
    assert judged.eps_sweep({e: outcomes(5) for e in falls}).raised


def test_one_or_two_images_are_not_a_sign() -> None:
    assert judged.spill("black-box", "Square", 100, 50, 2, 2).raised is False
    assert judged.spill("black-box", "Square", 100, 50, 3, 3).raised
    assert judged.spill("black-box", "Square", 2000, 900, 4, 4).raised is False  # 0.2 points
    assert judged.spill("black-box", "Square", 2000, 900, 5, 5).raised
    assert judged.spill("black-box", "Square", 100, 50, 9, 2).raised is False  # APGD-T breaks the others
    assert judged.transfer(100, 50, {"a": (9, 2), "b": (3, 3)}).said.startswith("PGD-20 on b breaks 3 of the 50 images")


def test_an_image_that_one_start_of_apgd_t_misses_and_another_breaks_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = images()
    calls: list[int] = []

    def third(model: nn.Module, u: Images, v: Labels, threat: Threat) -> Images:
        calls.append(len(u))
        away = (u.mean((1, 2, 3)) - 0.5).abs() < 0.049 * len(calls)  # the nearest first
        return torch.where(away[:, None, None, None], u + threat.eps * (1 - 2 * v)[:, None, None, None], u)

    monkeypatch.setitem(ATTACKS, "apgd-t", third)
    subject = attacked.Subject(Mean(), x, y, THREAT, 256, 0)
    assert attacked.withstood(subject, torch.arange(0, 60, 2)) == (30, 20)  # 20 of 60 are within eps
    assert calls == [30, 30, 20]


def test_corners_and_radii_are_where_they_should_be() -> None:
    x = torch.full((5, 1, 4, 4), 0.5)
    for threat in (THREAT, Threat(norm=2.0, eps=0.3)):
        d = (attacked.corner(x, threat) - x).flatten(1)
        assert torch.linalg.vector_norm(d, threat.norm, 1) == pytest.approx(torch.full((5,), threat.eps), abs=1e-6)
    assert list(attacked.radii(Threat(norm=inf, eps=0.25), 16)) == [0.25, 0.5, 1.0]
    assert list(attacked.radii(Threat(norm=2.0, eps=3.0), 16)) == [3.0, 4.0]
    assert list(attacked.radii(Threat(norm=inf, eps=1.0), 16)) == [1.0]


# --- what an evaluation has found already


def an_evaluation(**columns: Tensor) -> Evaluation:
    every = {"clean": outcomes(60, 60)} | {name.replace("_", "-"): column for name, column in columns.items()}
    cascade = {name: column for name, column in every.items() if name in ("apgd-t", "square")}
    return Evaluation(threat=THREAT, n=60, robust={k: v for k, v in every.items() if k not in cascade}, seconds={}, cascade=cascade)


def test_columns_that_are_there_are_read_and_only_what_square_broke_is_attacked(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    def fails(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images:
        given.append(len(x))
        return x

    monkeypatch.setitem(ATTACKS, "apgd-t", fails)
    weak, strong = outcomes(40, 60), outcomes(20, 60)
    found = an_evaluation(fgsm=strong, pgd20=weak, apgd_t=outcomes(30, 60), square=outcomes(27, 60))
    flags = asked(Mean(), found=found, full=False)
    assert raised(flags) == {"one-step", "black-box"}
    assert given == [3, 3, 3]
    assert "Square breaks 3 of the 30 images" in flags["black-box"].said
    assert flags["iterations"].raised is None
    assert "--health" in flags["iterations"].said
    flags = asked(Mean(), found=an_evaluation(fgsm=weak, pgd20=strong, square=outcomes(18, 60)), full=False)
    assert raised(flags) == set()
    assert "Square breaks 2 of the 20 images" in flags["black-box"].said


def test_an_attack_that_saw_only_what_square_left_says_nothing_about_square() -> None:
    found = an_evaluation(square=outcomes(30, 60), apgd_t=outcomes(20, 60))
    assert asked(Mean(), found=found, full=False)["black-box"].raised is None


def test_too_few_images_or_no_threat_leave_checks_open() -> None:
    x, y = images(12)
    flags = {f.name: f for f in health(Mean(), x, y, THREAT)}
    assert flags["iterations"].raised is None
    assert "only 12 images are classified right, 20 are needed" in flags["iterations"].said
    assert flags["randomness"].raised is False
    none = asked(Mean(), Threat(norm=inf, eps=0.0))
    assert "eps is 0" in none["gradients"].said
    x, y = images()
    assert [f.raised for f in health(Mean(), x, 1 - y, THREAT)][:7] == [None] * 7  # nothing is right


def test_an_evaluation_of_other_images_is_refused() -> None:
    x, y = images(30)
    with pytest.raises(BadInput, match=r"of 60 images.*give the 30 images"):
        health(Mean(), x, y, THREAT, found=an_evaluation())


# --- health.json and the documentation


def test_flags_come_back_as_written(tmp_path: Path) -> None:
    flags = [Flag("reach", True, "far", {"a": 1.0}), Flag("transfer", None, "not checked: none")]
    write(flags, tmp_path / "health.json")
    assert read(tmp_path / "health.json") == flags
    for text in ("[", "[{}]", '[{"name": "unknown", "raised": null, "said": "", "numbers": {}}]', "{}3"):
        (tmp_path / "health.json").write_text(text)
        with pytest.raises(BadInput, match="evaluate again with --resume"):
            read(tmp_path / "health.json")


def test_the_documentation_has_each_check_with_what_raises_it_and_what_to_do() -> None:
    text = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text()
    section = text.partition("## Is the robustness real?")[2].partition("\n## ")[0]
    entries = re.findall(r"^- \*\*([\w-]+)\*\*(.*?)(?=^- \*\*|^\S|\Z)", section, re.M | re.S)
    assert [name for name, _ in entries] == list(CHECKS)
    for name, said in entries:
        assert "*Raised if*" in said, name
        assert "*Explanation*" in said, name


def test_random_points_stay_inside_and_differ() -> None:
    x = torch.rand(3, 1, 4, 4)
    a, b = random_point(x, THREAT), attacked.corner(x, THREAT)
    assert torch.equal(project(b, x, THREAT), b)
    assert not torch.equal(a, b)


@pytest.mark.parametrize("masked", [-1e9, -inf])
def test_a_masked_class_is_no_alarm_and_hides_none(masked: float) -> None:
    torch.manual_seed(0)
    z = torch.randn(20, 5).index_fill(1, torch.tensor([4]), masked)
    assert behaviour.randomness(z, z.clone()).raised is False
    assert behaviour.randomness(z, z + 0.01 * torch.randn(20, 5)).raised is True
    usual = behaviour.typical(z)
    assert ((usual > 0.1) & (usual < 10)).all()
