"""What an evaluation is said to cost, with a clock that passes of the model turn and nothing else."""

from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdiga.attacks import ATTACKS, autoattack, fab
from kdiga.errors import BadInput
from kdiga.evaluate import cost as module
from kdiga.evaluate import evaluate
from kdiga.evaluate.cost import FEW, FEWEST, Cost, affordable, cost, duration, passes
from kdiga.report.sentence import expected
from kdiga.stats import wilson
from kdiga.types import Threat

THREAT = Threat(norm=inf, eps=0.01)


class Firm(nn.Module):
    """Says class 0 whatever is done to an image, with a gradient; counts the images of its passes with and without one, of copies, too."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes, self.plain, self.ascents = classes, 0, 0
        self.weight = nn.Parameter(torch.rand(16, classes, generator=torch.Generator().manual_seed(0)) * 1e-2)

    def __deepcopy__(self, memo: dict[int, object]) -> "Firm":
        return self

    def forward(self, x: Tensor) -> Tensor:
        taken = torch.is_grad_enabled() and x.requires_grad
        self.ascents, self.plain = self.ascents + taken * len(x), self.plain + (not taken) * len(x)
        z: Tensor = x.flatten(1) @ self.weight
        return z + 10 * (torch.arange(self.classes) == 0)


@pytest.mark.parametrize("classes", [3, 10])
@pytest.mark.parametrize("name", [n for n in ATTACKS if n not in ("pyautoattack", "pgd100")])
def test_an_attack_takes_the_passes_that_are_counted_for_it(name: str, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (autoattack, module):
        monkeypatch.setattr(place, "QUERIES", 300)
    model, x = Firm(classes), torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    ATTACKS[name](model, x, torch.zeros(8, dtype=torch.int64), THREAT)
    forwards, steps = passes(name, classes)
    assert model.ascents / 8 == pytest.approx(steps, rel=0.02)
    # a few passes are there to look at the model; square does not ask it of an image that a query left as it was
    assert (0.4 if name == "square" else 1.0) * forwards <= model.plain / 8 <= forwards + 8


def test_every_attack_is_counted() -> None:
    assert all(sum(passes(name, 10)) > 0 for name in ATTACKS)


class Paced(torch.autograd.Function):
    """The identity; a pass forward takes one second of the clock for each image, backward two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, clock: list[float]) -> Tensor:
        ctx.clock = clock
        clock[0] += len(x) * clock[1]
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        ctx.clock[0] += 2 * len(g) * ctx.clock[1]
        return g, None


class Slow(nn.Module):
    """A linear model that takes `each` seconds for an image, and remembers the sizes of its batches."""

    def __init__(self, each: float, classes: int = 10) -> None:
        super().__init__()
        self.clock, self.sizes, self.linear = [0.0, each], list[int](), nn.Linear(16, classes)

    def __deepcopy__(self, memo: dict[int, object]) -> "Slow":
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        z: Tensor = self.linear(Paced.apply(x, self.clock).flatten(1))
        return z


def timed(monkeypatch: pytest.MonkeyPatch, model: Slow, *attacks: str, n: int = 64, batch_size: int = 32) -> Cost:
    monkeypatch.setattr(module, "perf_counter", lambda: model.clock[0])
    return cost(model, torch.rand(n, 1, 4, 4), THREAT, attacks, batch_size=batch_size)


def test_the_cost_is_passes_times_what_a_pass_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward pass takes a millisecond for each image, a step of ascent three."""
    found = timed(monkeypatch, Slow(0.001), "pgd20")
    assert found.low == found.high == pytest.approx(0.001 + 20 * 0.003 + 0.001)  # right or not, twenty steps, and is it broken
    gradient = ("fgsm", "apgd-ce", "apgd-t", "fab-t")
    found = timed(monkeypatch, Slow(0.001), *gradient)
    members = 900 * (0.001 + 0.003) + 10 * 101 * 0.003 + 3 * 0.001
    assert found.high == pytest.approx(0.001 + 0.004 + members)
    assert found.low == pytest.approx(0.001 + 0.004 + 0.004)
    assert timed(monkeypatch, Slow(0.002), *gradient).high == pytest.approx(2 * found.high)
    whole = timed(monkeypatch, Slow(0.001), "fgsm", "autoattack").high - found.high
    assert 5002 * 0.001 - 1e-9 <= whole < 1.5 * 5002 * 0.001  # queries asked ahead in vain come on top
    assert timed(monkeypatch, Slow(0.001, classes=3), "apgd-t").high == pytest.approx(0.001 + 2 * 101 * 0.003 + 0.001)


def test_what_the_attacks_compute_themselves_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model, project = Slow(0.001), fab.approach

    def slower(*args: Any, **options: Any) -> Any:
        model.clock[0] += 0.01 * len(args[1])
        return project(*args, **options)

    before = timed(monkeypatch, model, "fab-t").high
    monkeypatch.setattr(module, "approach", slower)
    assert timed(monkeypatch, model, "fab-t").high == pytest.approx(before + 900 * 0.01)


def test_a_slow_model_is_timed_on_a_few_images_and_a_quick_one_on_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, quick = Slow(2.0), Slow(1e-6)
    assert timed(monkeypatch, slow, "pgd20").high == pytest.approx(2 + 20 * 6 + 2)
    timed(monkeypatch, quick, "pgd20")
    assert (max(slow.sizes), max(quick.sizes)) == (FEW, 32)


def test_the_bounds_hold_for_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is right about everything and withstands it, and one that is broken at once."""
    x, y = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(12, dtype=torch.int64)
    for bias, eps in ((100.0, 0.001), (0.0, 1.0)):
        model = Slow(0.001, classes=3)
        with torch.no_grad():
            model.linear.weight.copy_(torch.rand(3, 16, generator=torch.Generator().manual_seed(0)) * 0.1)
            model.linear.bias.copy_(torch.tensor([bias + 1e-3, 0.0, 0.0]))
        threat, attacks = Threat(norm=inf, eps=eps), ("pgd20", "apgd-ce", "apgd-t")
        each = timed(monkeypatch, model, *attacks, n=12)
        before = model.clock[0]
        evaluate(model, x, y, threat, attacks=attacks, batch_size=12)
        took = model.clock[0] - before
        # a few passes belong to a batch and not to an image: those that find out the number of classes or the best wrong ones
        assert took <= 12 * each.high * 1.02
        if bias:
            assert took == pytest.approx(12 * each.high, rel=0.02)


def test_timing_leaves_the_model_and_the_random_state_as_they_were() -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 3)), torch.rand(9, 1, 4, 4)
    before, state, kept = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state(), x.clone()
    cost(model, x, THREAT, ("fgsm", "autoattack"))
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("600", 600), ("1.5 h", 5400), ("10min", 600)]
)
def test_a_budget_in_seconds_minutes_and_hours(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["ten minutes", "10d", "-5m", "0s", "0", "m", "", "1e3", "inf", "10m30s"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(BadInput, match="is no time: write 90s, 10m or 2h"):
        duration(text)


def test_as_many_images_as_fit_if_all_withstand_everything() -> None:
    each = Cost(low=0.001, high=0.5)
    assert affordable(each, 5000.0, 1000) == 1000
    assert affordable(each, 300.0, 1000) == 600
    assert affordable(each, 218.6, 1000) == 430  # of 437: two digits
    assert affordable(each, 45.0, 1000) == 90
    for seconds in (26.0, 77.0, 140.0, 499.0):
        assert affordable(each, seconds, 1000) * each.high <= seconds
    assert affordable(each, 10.0, 20) == 20  # fewer were asked for


def test_too_short_a_budget_says_what_would_do() -> None:
    each = Cost(low=0.001, high=3.0)
    with pytest.raises(
        BadInput, match=rf"60 seconds is too short: {FEWEST} images.* may take 150 seconds .* --budget 180s"
    ) as error:
        affordable(each, 60.0, 1000)
    assert "\n" not in str(error.value)
    assert affordable(each, 180.0, 1000) == 60
    with pytest.raises(BadInput, match="too short: 30 images"):
        affordable(each, 60.0, 30)


def test_what_is_said_before_it_begins() -> None:
    said = expected(Cost(low=0.01, high=1.0), 400, 10_000)
    low, high = wilson(200, 400)
    assert "Attacking 400 images takes 4.0 s if all break at once, 6 min 40 s if all withstand" in said
    assert f"known to ± {100 * (high - low) / 2:.1f} points" in said
    assert said.endswith("All 10000 test images: 1 min 40 s to 2 h 47 min.")
    assert "All" not in expected(Cost(low=0.01, high=1.0), 400, 400)
