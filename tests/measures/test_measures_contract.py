"""What holds for every measure in MEASURES."""

from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdiga.errors import BadInput
from kdiga.inner import eval_mode
from kdiga.measures import GIVEN, MEASURES
from kdiga.options import accepted
from kdiga.types import PerSample, Threat

LINF, L2 = Threat(norm=inf, eps=0.05), Threat(norm=2.0, eps=0.1)
QUICK = {"steps": 3, "restarts": 2, "batches": 3, "samples": 2, "n0": 20, "n": 100}
BOUNDS = frozenset({"ibp-margin", "crown-ibp-margin"})  # l-inf only; they run a copy of the model and draw nothing
AT_LEAST_0 = ("local-linearity", "gradient-l2", "gradient-l1", "transfer-bound", "clever", "smoothing-radius")
CERTAIN = ("gradient-l2", "gradient-l1", "gradient-cosine", *BOUNDS)  # nothing is drawn

every_measure = pytest.mark.parametrize("name", MEASURES)


class Net(nn.Module):
    """Convolution, BatchNorm, dropout; modes and gradient flags mixed on purpose."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
            self.drop = nn.Dropout(0.5)
            self.head = nn.Linear(144, 3)
        self.train()
        self.drop.eval()
        self.body[0].weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.head(self.drop(self.body(x)))
        return z


TEACHER = Net(1).eval()


def run(name: str, model: nn.Module, x: Tensor, y: Tensor, threat: Threat = LINF, **options: Any) -> PerSample:
    known = accepted(MEASURES[name])
    quick = {k: v for k, v in QUICK.items() if k in known}
    given = {"teacher": TEACHER} if "teacher" in known else {}
    return MEASURES[name](model, x, y, threat, **{**quick, **given, **options})


def problem(n: int = 5) -> tuple[Net, Tensor, Tensor]:
    model, x = Net(), torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), eval_mode(model):
        return model, x, model(x).argmax(1)


def state(*models: nn.Module) -> list[Any]:
    found: list[Any] = []
    for model in models:
        found += [m.training for m in model.modules()]
        found += [p.requires_grad for p in model.parameters()] + [p.grad is None for p in model.parameters()]
        found += [v.tolist() for v in model.state_dict().values()]
    return [*found, torch.get_rng_state().tolist(), torch.is_grad_enabled()]


@every_measure
def test_one_finite_number_for_each_image(name: str) -> None:
    model, x, y = problem()
    for threat in (LINF,) if name in BOUNDS else (LINF, L2):
        found = run(name, model, x, y, threat)
        assert found.shape == (5,)
        assert found.is_floating_point()
        assert not found.requires_grad
        assert torch.isfinite(found).all()
        if name in AT_LEAST_0:
            assert (found >= 0).all()
        assert len(set(found.tolist())) > 1, "no two images are alike"


@every_measure
def test_model_teacher_images_and_random_state_are_left_as_they_were(name: str) -> None:
    model, x, y = problem()
    teacher = Net(1)
    options: dict[str, Any] = {"teacher": teacher} if "teacher" in accepted(MEASURES[name]) else {}
    before, images = state(model, teacher), (x.clone(), y.clone())
    run(name, model, x, y, **options)
    assert state(model, teacher) == before
    assert torch.equal(x, images[0])
    assert torch.equal(y, images[1])
    assert x.grad is None


@every_measure
def test_and_after_an_exception(name: str) -> None:
    model, x, y = problem()
    teacher = Net(1)
    options: dict[str, Any] = {"teacher": teacher} if "teacher" in accepted(MEASURES[name]) else {}
    for last in (model, *options.values()):

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        handle = last.drop.register_forward_hook(stop)
        before = state(model, teacher)
        with pytest.raises(KeyboardInterrupt):
            run(name, model, x, y, **options)
        assert state(model, teacher) == before
        handle.remove()


@pytest.mark.parametrize("name", CERTAIN)
def test_the_cut_into_batches_does_not_matter(name: str) -> None:
    model, x, y = problem()
    whole = run(name, model, x, y)
    parts = torch.cat([run(name, model, x[:2], y[:2]), run(name, model, x[2:], y[2:])])
    assert torch.allclose(whole, parts, atol=1e-5)


@every_measure
def test_the_random_state_alone_decides(name: str) -> None:
    model, x, y = problem()
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(run(name, model, x, y))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2]) == (name in CERTAIN)


@every_measure
def test_the_callers_grad_mode_does_not_matter(name: str) -> None:
    model, x, y = problem()
    torch.manual_seed(0)
    expected = run(name, model, x, y)
    torch.manual_seed(0)
    with torch.no_grad():
        assert torch.equal(run(name, model, x, y), expected)
    torch.manual_seed(0)
    with torch.inference_mode():
        assert torch.equal(run(name, model, x.clone(), y.clone()), expected)


@every_measure
def test_without_a_budget_a_measure_is_what_it_is_at_the_image_itself(name: str) -> None:
    model, x, y = problem()
    none = Threat(norm=inf, eps=0.0)
    with torch.no_grad(), eval_mode(model):
        z, other = model(x), TEACHER(x)
        loss, loss_t = (nn.functional.cross_entropy(v, y, reduction="none") for v in (z, other))
        lead = z.gather(1, y[:, None])[:, 0] - z.scatter(1, y[:, None], -inf).amax(1)
    torch.manual_seed(0)
    expected = {
        "local-linearity": torch.zeros(5),
        "linear-bound": loss,
        "transfer-bound": (loss - loss_t).abs(),
        "transfer-slack": torch.tensor(2.0).log() - loss_t - (loss - loss_t).clamp_min(0),
        "clever": torch.zeros(5),
        "ibp-margin": lead,
        "crown-ibp-margin": lead,
    }
    found = run(name, model, x, y, none)
    if name in expected:
        assert torch.allclose(found, expected[name], atol=1e-5)
    else:  # these do not depend on eps
        torch.manual_seed(0)
        assert torch.equal(found, run(name, model, x, y, LINF))


@pytest.mark.parametrize("name", [n for n in MEASURES if "teacher" in accepted(MEASURES[n])])
def test_a_model_that_is_its_teacher_agrees_with_it(name: str) -> None:
    model, x, y = problem()
    before = state(model)
    found = run(name, model, x, y, teacher=model)
    assert state(model) == before
    perfect = {"gradient-l2": 0.0, "gradient-l1": 0.0, "gradient-cosine": 1.0}
    if name in perfect:
        assert torch.allclose(found, torch.full((5,), perfect[name]), atol=1e-5)


@every_measure
def test_images_outside_the_box_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match=r"images must lie in \[0, 1\]"):
        run(name, Net(), torch.full((1, 1, 6, 6), 255.0), torch.tensor([0]))


def test_what_the_caller_fills_in_is_a_keyword_without_a_default() -> None:
    for name, function in MEASURES.items():
        for option, parameter in accepted(function).items():
            assert (parameter.default is parameter.empty) == (option in GIVEN), name
