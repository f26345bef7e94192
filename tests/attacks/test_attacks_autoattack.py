"""Our members of AutoAttack against the package pyautoattack: the same points, step by step, until a sample is broken."""

import contextlib
import threading
from math import inf
from typing import Any

import pytest
import torch
from known_answers import L2, LINF, Linear, Net, problem
from torch import Tensor, nn
from torch.nn.utils import prune

from kdiga.attacks import ATTACKS, AUTOATTACK, autoattack, packing, reference
from kdiga.attacks.apgd import Loss, checkpoints, climb, targeted, untargeted
from kdiga.attacks.fab import approach, onto_plane
from kdiga.attacks.folding import _pairs, folded
from kdiga.attacks.packing import each_target, right
from kdiga.errors import BadInput
from kdiga.types import Threat

both_norms = pytest.mark.parametrize("norm", [inf, 2.0])
NAMES = {inf: "Linf", 2.0: "L2"}


def net(classes: int) -> tuple[Net, Tensor, Tensor]:
    model = Net(classes).eval().requires_grad_(False)
    x = torch.rand(24, 1, 6, 6)
    return model, x, model(x).argmax(1)


@contextlib.contextmanager
def asked(model: nn.Module) -> Any:
    """Every batch of images that the model is given."""
    found: list[Tensor] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].detach().clone()))
    yield found
    hook.remove()


def packages(name: str, model: nn.Module, classes: int, threat: Threat) -> Any:
    build = getattr(reference, f"build_{name}")
    return build(model, classes, norm=NAMES[threat.norm], eps=threat.eps, seed=0, device="cpu", verbose=False)


@both_norms
@pytest.mark.parametrize(
    ("name", "loss", "classes"), [("apgd_ce", untargeted, 10), ("apgd_t", targeted, 10), ("apgd_t", targeted, 3)]
)
def test_auto_pgd_visits_the_points_of_the_package(name: str, loss: Loss, classes: int, norm: float) -> None:
    model, x, y = net(classes)
    threat = Threat(norm=norm, eps=0.02 if norm == inf else 0.08)
    start, target = x + 0.5 * threat.eps / 6 * torch.randn_like(x).sign(), (y + 1) % classes
    theirs = packages(name, model, classes, threat)
    theirs.init_hyperparam(x)
    theirs.y_target = target
    with asked(model) as visited:
        _, right_still, best_loss, _ = theirs.attack_single_run(x, y, x_init=start)
        safe = right_still.bool()
        assert safe.sum() >= 5
        expected, visited[:] = [u[safe] for u in visited], []
        values: list[Tensor] = []

        def noted(z: Tensor, y: Tensor, t: Tensor) -> Tensor:
            values.append(loss(z, y, t).detach())
            return loss(z, y, t)

        rows = torch.arange(int(safe.sum()))
        climb(model, noted, x[safe], y[safe], rows, target[safe], threat, start=start.clamp(0, 1)[safe], steps=100)
    assert len(visited) == len(expected) == 101
    for ours, package in zip(visited, expected, strict=True):
        torch.testing.assert_close(ours, package, atol=0.01 * threat.eps, rtol=0)
    assert (torch.stack(values[1:]) > values[0]).any()
    torch.testing.assert_close(torch.stack(values).amax(0).maximum(best_loss[safe]), best_loss[safe], atol=1e-5, rtol=1e-4)


@both_norms
@pytest.mark.parametrize("name", ["apgd_ce", "apgd_t"])
def test_auto_pgd_breaks_what_the_package_breaks_from_the_same_start(name: str, norm: float) -> None:
    model, x, y = net(10)
    threat = Threat(norm=norm, eps=0.05 if norm == inf else 0.2)
    theirs = packages(name, model, 10, threat)
    theirs.init_hyperparam(x)
    theirs.y_target = target = model(x).argsort(1)[:, -2]
    _, robust, _, _ = theirs.attack_single_run(x, y, x_init=x)
    found, broken = climb(
        model, {"apgd_ce": untargeted, "apgd_t": targeted}[name], x, y, torch.arange(24), target, threat, start=x, steps=100
    )
    assert torch.equal(broken, ~robust.bool())
    assert 3 <= broken.sum() <= 21
    assert torch.equal(right(model(found), y), ~broken)


@both_norms
def test_fab_visits_the_points_of_the_package(norm: float) -> None:
    model, x, y = net(10)
    threat = Threat(norm=norm, eps=1e-6)  # nothing ends early
    theirs = packages("fab_t", model, 10, threat)
    theirs.n_iter, theirs.target_class = 15, 3
    target = model(x).argsort(1)[:, -3]
    with asked(model) as visited:
        theirs.attack_single_run(x, y, is_targeted=True)
        expected, visited[:] = visited[2:], []
        approach(model, x, y, torch.arange(24), target, threat, steps=15)
    assert len(visited) == len(expected) == 30
    for ours, package in zip(visited, expected, strict=True):
        torch.testing.assert_close(ours, package, atol=1e-4, rtol=0)


@both_norms
def test_fab_breaks_what_the_package_breaks(norm: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoattack, "STEPS", 30)
    model, x, y = net(10)
    threat = Threat(norm=norm, eps=0.05 if norm == inf else 0.2)
    theirs = packages("fab_t", model, 10, threat).perturb(x, y)
    ours = ATTACKS["fab-t"](model, x, y, threat)
    robust = right(model(ours), y)
    assert torch.equal(robust, right(model(theirs), y))
    assert 3 <= robust.sum() <= 21


@both_norms
def test_the_way_to_the_plane_is_the_packages(norm: float) -> None:
    from pyautoattack.fab_projections import projection_l2, projection_linf

    g = torch.Generator().manual_seed(0)
    u = (torch.rand(200, 2, 5, 5, generator=g) * 1.4 - 0.2).clamp(0, 1)
    w, value = torch.randn(u.shape, generator=g), 8 * torch.randn(200, generator=g)
    w[0] = 0
    w[1, 0] = 0
    flat = w.flatten(1)
    project = projection_linf if norm == inf else projection_l2
    expected = project(u.flatten(1), flat, (flat * u.flatten(1)).sum(1) - value)
    found = onto_plane(u, w, value, norm)
    torch.testing.assert_close(found.flatten(1), expected, atol=1e-4, rtol=1e-3)
    left = value + (w * found).flatten(1).sum(1)
    reached = left.abs() < 1e-4
    assert 0.5 < reached.float().mean() < 1  # and elsewhere the box is in the way
    assert (u + found).min() >= -1e-6
    assert (u + found).max() <= 1 + 1e-6


def test_the_checkpoints_are_those_of_the_paper() -> None:
    share, before, expected = 0.22, 0.0, [0.22]
    while share < 1:
        share, before = share + max(share - before - 0.03, 0.06), share
        expected.append(share)
    assert list(checkpoints(100)) == [round(100 * p) for p in expected if p < 1.0001]
    assert list(checkpoints(100).values())[:5] == [22, 19, 16, 13, 10]
    assert list(checkpoints(1)) == [1]


@pytest.mark.parametrize("classes", [10, 100, 7])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_settings_are_those_of_the_standard_version(norm: str, classes: int) -> None:
    from pyautoattack import AutoAttack

    model = Linear(classes)
    whole = AutoAttack(model, norm=norm, eps=0.1, seed=3, version="standard")
    whole.apgd.loss, whole.fab.targeted = "ce", True  # set when it runs them
    whole.fab.n_target_classes = whole.apgd_targeted.n_target_classes = min(9, classes - 1)
    common: dict[str, Any] = {"norm": norm, "eps": 0.1, "seed": 3, "device": "cpu", "verbose": False}
    for build, theirs in (
        (reference.build_apgd_ce, whole.apgd),
        (reference.build_apgd_t, whole.apgd_targeted),
        (reference.build_fab_t, whole.fab),
        (reference.build_square, whole.square),
    ):
        ours = build(model, classes, **common)
        assert type(ours) is type(theirs)
        assert {k: v for k, v in vars(ours).items() if k != "logger"} == {k: v for k, v in vars(theirs).items() if k != "logger"}
    assert whole.attacks_to_run == list(AUTOATTACK)
    assert (autoattack.STEPS, autoattack.QUERIES) == (whole.apgd.n_iter, whole.square.n_queries) == (100, 5000)


@pytest.mark.parametrize("classes", [2, 4, 7, 12])
def test_every_one_of_the_nine_best_wrong_classes_is_tried_in_order(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "VALUES", 2 * 24 * 36)  # two at a time
    model, x, y = net(classes)
    tried: list[list[int]] = [[] for _ in x]

    def search(u: Tensor, v: Tensor, row: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        of = (u[:, None] == x).flatten(2).all(2).int().argmax(1)
        assert torch.equal(v, y[of])
        for i, t in zip(of[row].tolist(), target.tolist(), strict=True):
            tried[i].append(t)
        return u, (of == 3) & (torch.tensor(len(tried[3])) >= 2)  # one sample is broken once two of its classes were tried

    each_target(search, model, x, y)
    expected = model(x).argsort(1, descending=True)[:, 1:10]
    assert len(tried[3]) == min(2, classes - 1)
    tried[3] = expected[3].tolist()
    assert tried == expected.tolist()


@pytest.mark.parametrize("classes", [2, 3, 4, 9])
@pytest.mark.parametrize("name", [*AUTOATTACK, "pyautoattack"])
def test_few_classes(name: str, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoattack, "STEPS", 20)
    monkeypatch.setattr(autoattack, "QUERIES", 200)
    model, x, y = net(classes)
    found = ATTACKS[name](model, x, y, Threat(norm=inf, eps=0.5))
    assert (model(found).argmax(1) != y).any()


def test_with_three_classes_the_targeted_attack_climbs_the_margin_of_the_target() -> None:
    z = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    y, t = torch.tensor([0, 1]), torch.tensor([2, 0])
    assert targeted(z, y, t).tolist() == [3.0, -1.0]
    package = packages("apgd_t", Linear(3), 3, LINF)
    package.y_target = t
    assert package.dlr_loss_targeted(z, y).tolist() == [3.0, -1.0]
    z, y, t = torch.tensor([[5.0, 3.0, 2.0, 0.0]]), torch.tensor([0]), torch.tensor([1])
    torch.testing.assert_close(targeted(z, y, t), torch.tensor([-2.0 / (5 - 1)]))


def test_one_class_is_refused() -> None:
    with pytest.raises(BadInput, match="at least two classes, the model has 1"):
        ATTACKS["apgd-ce"](Linear(1), torch.rand(1, 1, 6, 6), torch.tensor([0]), LINF)


def test_a_compiled_model_runs_and_gives_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoattack, "QUERIES", 20)
    monkeypatch.setattr(autoattack, "STEPS", 5)
    model = Linear(2)
    x, y, _ = problem(model, LINF)
    compiled: Any = torch.compile(model, backend="eager")
    for name in ("pgd20", *AUTOATTACK, "pyautoattack"):
        assert torch.equal(ATTACKS[name](compiled, x, y, LINF), ATTACKS[name](model, x, y, LINF))


# --- samples leave, and what was found on a copy is held against the model


@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t", "fab-t"])
def test_a_broken_sample_is_asked_no_further(name: str) -> None:
    model = Linear(4)
    x, y, worst = problem(model, LINF)
    easy = worst < -0.1
    assert easy.sum() >= 5
    with asked(model) as visited:
        ATTACKS[name](model, x[easy], y[easy], Threat(norm=inf, eps=0.1))
    assert len(visited) < 15


def test_what_is_broken_only_on_the_folded_copy_is_attacked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = net(10)

    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z: Tensor = -model(x)
            return z

    threat = Threat(norm=inf, eps=0.05)
    expected = right(model(ATTACKS["apgd-ce"](model, x, y, threat)), y)
    monkeypatch.setattr(autoattack, "folded", lambda model, x: Wrong())
    assert torch.equal(right(model(ATTACKS["apgd-ce"](model, x, y, threat)), y), expected)
    assert 0 < expected.sum() < len(y)


class Shared(nn.Module):
    """One convolution, two BatchNorms after it: neither may be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b, self.last = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        out: Tensor = self.last((self.a(z) + self.b(z).relu()).flatten(1))
        return out


def test_batchnorm_is_folded_where_it_can_be_and_the_model_stays() -> None:
    x = torch.rand(4, 1, 6, 6)
    for model, folds in ((Net(3), True), (Shared(), False), (Linear(3), False)):
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                torch.nn.init.uniform_(m.running_mean), torch.nn.init.uniform_(m.running_var, 0.5, 2.0)  # type: ignore[arg-type]
        model.eval()
        state, z = {k: v.clone() for k, v in model.state_dict().items()}, model(x)
        fast = folded(model, x)
        assert (fast is not model) is folds
        assert any(isinstance(m, nn.BatchNorm2d) for m in fast.modules()) is (not folds and isinstance(model, Shared))
        torch.testing.assert_close(fast(x), z, atol=1e-5, rtol=1e-4)
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
        assert not any(m._forward_hooks for m in model.modules())


# --- the package as an attack


@pytest.mark.parametrize(("height", "width"), [(h, h) for h in range(2, 34)] + [(20, 24), (24, 20), (16, 48), (20, 10), (10, 21)])
def test_under_l2_the_package_is_refused_exactly_where_it_fails_and_ours_runs(
    height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoattack, "QUERIES", 1)
    monkeypatch.setattr(autoattack, "STEPS", 1)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)).eval()
    x = 0.3 + 0.4 * torch.rand(2, 1, height, width)
    y = model(x).argmax(1)
    fails = True
    with contextlib.suppress(RuntimeError, ZeroDivisionError), torch.random.fork_rng():
        packages("square", model, 2, L2).perturb(x, y)
        fails = False
    with pytest.raises(BadInput, match=f"cannot start on images of {height}x{width} pixels") if fails else contextlib.nullcontext():
        assert ATTACKS["pyautoattack"](model, x, y, Threat(norm=2.0, eps=1e-4)).shape == x.shape
    assert ATTACKS["square"](model, x, y, L2).shape == x.shape


class Odd(torch.nn.Module):
    """A network whose BatchNorm looks as if it followed a convolution, and with logits that hide what is wrong."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.conv, self.bn = torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.BatchNorm2d(4)
        self.bn.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
        self.head = torch.nn.Linear(144, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv(x)
        if self.kind == "relu between":
            h = self.bn(torch.nn.functional.relu_(h))
        elif self.kind == "used twice":
            h = self.bn(torch.relu(self.bn(h)))
        elif self.kind == "skip":
            h = h + self.bn(h)
        else:
            h = self.bn(h)
        z: torch.Tensor = self.head(h.flatten(1))
        return z.index_fill(1, torch.tensor([4]), -1e9) + (5000 if self.kind == "skip" else 0)


@pytest.mark.parametrize("kind", ["relu between", "used twice", "skip"])
def test_what_is_no_convolution_and_its_batchnorm_is_not_folded(kind: str) -> None:
    model, x = Odd(kind).eval(), torch.rand(8, 1, 6, 6)
    assert folded(model, x) is model
    assert kind == "skip" or _pairs(model, x)[0] == {}  # seen from the forward; a skip is seen from the logits


def test_a_masked_class_does_not_hinder_folding() -> None:
    model, x = Odd("plain").eval(), torch.rand(8, 1, 6, 6)
    fast = folded(model, x)
    assert fast is not model
    torch.testing.assert_close(fast(x)[:, :4], model(x)[:, :4])


def test_a_model_that_cannot_be_copied_is_attacked_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoattack, "STEPS", 3)
    model = Odd("plain").eval()
    model.lock = threading.Lock()  # type: ignore[assignment]
    x = torch.rand(4, 1, 6, 6)
    assert ATTACKS["apgd-ce"](model, x, model(x).argmax(1), LINF).shape == x.shape
    pruned = Odd("plain").eval()
    prune.l1_unstructured(pruned.conv, "weight", 0.5)
    assert ATTACKS["apgd-ce"](pruned, x, pruned(x).argmax(1), LINF).shape == x.shape


def test_a_gradient_that_is_nan_ends_its_own_run_alone() -> None:
    """A class masked by -inf gives the targeted loss of that class no gradient; the sample's other targets go on."""
    model = Linear(5)
    masked = torch.nn.Module()
    masked.forward = lambda x: model(x).index_fill(1, torch.tensor([4]), -torch.inf)
    x, threat = torch.rand(30, 1, 6, 6, generator=torch.Generator().manual_seed(3)), Threat(norm=2.0, eps=0.3)
    y = model(x)[:, :4].argmax(1)
    found = ATTACKS["apgd-t"](masked, x, y, threat)
    four = Linear(4)
    four.weight.data = model.weight.data[:4]
    assert found.isfinite().all()
    broken, alone = ((m(ATTACKS["apgd-t"](m, x, y, threat)).argmax(1) != y).sum() for m in (masked, four))
    assert 0 < alone <= broken + 1


def test_logits_in_double_precision() -> None:
    model = Linear(3)
    double = torch.nn.Module()
    double.forward = lambda x: model(x).double()
    x = torch.rand(4, 1, 6, 6)
    assert ATTACKS["fab-t"](double, x, model(x).argmax(1), LINF).dtype == torch.float32
