"""Randomised smoothing against networks whose smoothed classifier is known exactly."""

import gc
import math

import pytest
import torch
from scipy.stats import binom, binomtest, norm
from torch import Tensor, nn

from kdiga.measures.smoothing import at_least, average_certified_radius, certified_accuracy, certify, count, smoothing_radius
from kdiga.types import Threat

THREAT = Threat(norm=math.inf, eps=0.1)


class Halves(nn.Module):
    """Class 1 where w.x + b > 0, else 0: smoothed, it is itself, with a radius of |w.x + b| / ||w||_2 whatever sigma is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 2, dtype=torch.float64)
        nn.init.zeros_(self.linear.weight[0])
        nn.init.zeros_(self.linear.bias[:1])

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.linear(x.flatten(1))
        return z

    def signed(self, x: Tensor) -> Tensor:
        """The distance to the boundary, positive on the side of class 1."""
        z = self.forward(x).detach()
        signed: Tensor = (z[:, 1] - z[:, 0]) / self.linear.weight[1].norm().detach()
        return signed


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.eye(5)[3].expand(len(x), 5)


def halves(n: int) -> tuple[Halves, Tensor, Tensor]:
    """A linear model, and images at distances of -0.3 to 0.3 from its boundary, which runs through the middle of [0, 1]."""
    torch.manual_seed(3)
    model, away = Halves(), torch.linspace(-0.3, 0.3, n, dtype=torch.float64)
    x = 0.3 + 0.4 * torch.rand(n, 3, 2, 2, dtype=torch.float64)
    nn.init.constant_(model.linear.bias[1], -model.linear.weight[1].sum().item() / 2)
    w = model.linear.weight[1].detach() / model.linear.weight[1].norm().detach()
    return model, x + ((away - model.signed(x))[:, None] * w).view_as(x), (away > 0).long()


def test_the_radius_of_a_linear_model_is_below_the_distance_to_its_boundary_and_tends_to_it() -> None:
    model, x, y = halves(20)
    exact, gaps = model.signed(x).abs(), []
    for n in (100, 1000, 30_000):
        torch.manual_seed(0)
        found = certify(model, x, sigma=0.25, n=n)
        certified = found.prediction >= 0
        assert torch.equal(found.prediction[certified], y[certified])
        assert torch.equal(found.radius > 0, certified)
        assert (found.radius <= exact).all()  # wrong for one in a thousand images
        gaps.append((exact - found.radius).max().item())
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.015


def test_the_radius_is_sigma_times_the_quantile_of_the_bound() -> None:
    """From the counts themselves: a network that answers by the number of the copy, right 90 times of 100."""

    class Counter(nn.Module):
        seen = 0

        def forward(self, x: Tensor) -> Tensor:
            place = torch.arange(self.seen, self.seen + len(x)) - 10  # ten copies choose
            self.seen += len(x)
            return torch.eye(2)[((place >= 90) & (place < 100)).long()]

    found = certify(Counter(), torch.rand(1, 1, 2, 2), sigma=0.5, n0=10, n=100, alpha=0.05, batch=7)
    low = binomtest(90, 100, alternative="greater").proportion_ci(0.95, method="exact").low
    assert found.radius.item() == pytest.approx(0.5 * norm.ppf(low))


def test_a_copy_without_an_answer_counts_for_no_class() -> None:
    """One NaN among the logits, of whichever class; argmax calls it the largest."""

    class Broken(nn.Module):
        seen = 0

        def forward(self, x: Tensor) -> Tensor:
            place = torch.arange(self.seen, self.seen + len(x))
            self.seen += len(x)
            z = torch.eye(3)[place % 2]
            z[place % 5 == 0, 0], z[place % 5 == 1, 2] = math.nan, math.nan
            return z

    assert count(Broken(), torch.rand(2, 1, 2, 2), copies=50, sigma=0.1, batch=7).tolist() == [[15, 15, 0]] * 2

    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 3), math.nan)

    x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    found = certify(Nothing(), x, sigma=0.5, n=100)
    assert found.prediction.tolist() == [-1, -1]
    assert found.radius.tolist() == [0.0, 0.0]
    assert smoothing_radius(Nothing(), x, y, THREAT, n=100).tolist() == [0.0, 0.0]


def test_what_is_counted_does_not_grow_with_the_number_of_copies() -> None:
    """Integers alive at the last batch, beyond those before: the counts of 5 images and 40 classes, and a batch of 10."""

    class Last(nn.Module):
        calls, found = 0, 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 200:
                self.found = integers()
            return torch.eye(40)[torch.arange(len(x))]

    def integers() -> int:
        return sum(t.numel() for t in gc.get_objects() if type(t) is Tensor and t.dtype == torch.int64)

    model, before = Last(), integers()
    found = count(model, torch.rand(5, 1, 2, 2), copies=400, sigma=0.1, batch=10)
    assert model.calls == 200
    assert found.tolist() == [[40] * 10 + [0] * 30] * 5
    assert model.found - before < 300


def test_a_constant_has_the_largest_radius_there_is() -> None:
    x, y = torch.rand(2, 1, 2, 2), torch.tensor([3, 4])
    found = smoothing_radius(Constant(), x, y, THREAT, sigma=0.5, n=1000, alpha=0.01)
    assert found.tolist() == pytest.approx([0.5 * norm.ppf(0.01 ** (1 / 1000)), 0.0])


def test_at_the_boundary_it_abstains() -> None:
    model, x, _ = halves(3)
    on = x[1:2]  # at a distance of 0
    for seed in range(20):
        torch.manual_seed(seed)
        found = certify(model, on, sigma=0.25, n=500)
        assert found.prediction.tolist() == [-1]
        assert found.radius.tolist() == [0.0]


def test_the_lower_bound_is_clopper_and_pearsons() -> None:
    k = torch.tensor([0, 1, 2, 37, 99, 100])
    for alpha in (0.001, 0.05):
        expected = [binomtest(int(i), 100, alternative="greater").proportion_ci(1 - alpha, method="exact").low for i in k]
        assert at_least(k, 100, alpha).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("p", [0.5, 0.7, 0.97])
def test_the_lower_bound_fails_no_more_often_than_it_says(p: float) -> None:
    """Its exact failure rate: the probability of the counts whose bound is above p."""
    k = torch.arange(201)
    failure = binom.pmf(k.numpy(), 200, p)[(at_least(k, 200, 0.05) > p).numpy()].sum()
    assert 0.01 < failure <= 0.05


def test_wrong_certificates_are_as_rare_as_alpha() -> None:
    """On the boundary, where copies fall like a coin: to choose and to estimate from the same ones would fail twice as often."""
    model, x, _ = halves(3)
    torch.manual_seed(1)
    found = certify(model, x[1:2].expand(4000, -1, -1, -1), sigma=0.25, n0=40, n=40, alpha=0.05, batch=40_000)
    wrong = (found.prediction >= 0).double().mean().item()  # the radius there is 0
    assert 0.02 < wrong < 0.05


def test_the_copies_that_choose_are_not_counted_again() -> None:
    """Each copy is drawn once: n0 + n images reach the network, all different, and their noise is not clipped."""
    seen: list[Tensor] = []
    model = Constant()
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    certify(model, torch.zeros(2, 1, 2, 2), sigma=0.3, n0=30, n=400, batch=64)
    copies = torch.cat(seen)
    assert len(copies) == len(copies.unique(dim=0)) == 2 * 430
    assert max(len(part) for part in seen) == 64
    assert copies.std().item() == pytest.approx(0.3, rel=0.05)
    assert copies.mean().item() == pytest.approx(0.0, abs=0.02)


def test_the_model_and_the_random_state_are_left_and_the_seed_decides() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 9, 3)).train()
    x, y, before = torch.rand(4, 1, 5, 5), torch.arange(4) % 3, {k: v.clone() for k, v in model.state_dict().items()}
    found = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        found.append(certify(model, x, sigma=1.0, n=200).radius)
        assert torch.equal(torch.get_rng_state(), state)
        model.load_state_dict(before)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    smoothing_radius(model, x, y, THREAT, n=10)
    assert all(m.training for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_certified_accuracy_counts_wrong_and_abstained_as_zero() -> None:
    radii = torch.tensor([0.0, 0.2, 0.5, 0.0])
    assert certified_accuracy(radii, [0.0, 0.2, 0.3, 1.0]) == [0.5, 0.25, 0.25, 0.0]
    assert average_certified_radius(radii) == pytest.approx(0.175)
