"""CLEVER against linear models, where it is the exact distance, and its fit against draws of the distribution that it fits."""

from math import inf

import numpy as np
import pytest
import torch
from closed_form import L2, LINF, Quadratic, Smooth, grid, image
from scipy.stats import weibull_max
from torch import Tensor, nn

from kdiga.measures.clever import clever, location
from kdiga.types import Threat

both_norms = pytest.mark.parametrize("threat", [LINF, L2], ids=str)


class Linear(nn.Module):
    """Three classes over two pixels."""

    weight = torch.tensor([[1.0, 2.0], [0.0, -1.0], [3.0, 2.5]])

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + torch.tensor([2.0, 1.9, 0.0])


@both_norms
def test_of_a_linear_model_it_is_the_distance_to_the_boundary(threat: Threat) -> None:
    """At (0.2, 0.2) the logits are 2.6, 1.7 and 1.1: the lead of 0.9 over the runner-up shrinks along (1, 3), that of 1.5 along (-2, -0.5)."""
    x, y = torch.full((2, 1, 1, 2), 0.2), torch.tensor([0, 1])
    lengths = (4.0, 2.5) if threat.norm == inf else (10**0.5, 4.25**0.5)
    far = {"batches": 3, "samples": 2, "radius": 0.9}
    found = clever(Linear(), x, y, threat, batches=3, samples=2, radius=0.9)
    assert found.tolist() == pytest.approx([0.9 / lengths[0], 0.0], rel=1e-5), far
    every = clever(Linear(), x, y, threat, batches=3, samples=2, radius=0.9, target="every")
    assert every.tolist() == pytest.approx([min(0.9 / lengths[0], 1.5 / lengths[1]), 0.0], rel=1e-5)


def test_every_wrong_class_counts_where_the_runner_up_is_not_the_nearest() -> None:
    model = Linear()
    model.weight = torch.tensor([[0.0, 0.0], [0.1, 0.0], [9.0, 9.0]])
    x, y = torch.full((1, 1, 1, 2), 0.0), torch.tensor([0])
    assert clever(model, x, y, LINF, batches=2, samples=2).item() == pytest.approx(0.5)  # 0.1 / 0.1, above the radius
    assert clever(model, x, y, LINF, batches=2, samples=2, target="every").item() == pytest.approx(2 / 18)


def test_the_score_is_at_most_the_radius_which_is_five_times_eps() -> None:
    (x, y), flat, dead = image(0.5, 0.5), Quadratic(-1.0, [0.01, 0.01]), Quadratic(-1.0, [0.0, 0.0])
    for norm, eps, radius in ((inf, 0.1, 0.5), (inf, 0.4, 1.0), (2.0, 0.4, 2.0), (inf, 0.0, 0.0)):
        for model in (flat, dead):  # without a gradient the boundary is nowhere
            score = clever(model, x, y, Threat(norm=norm, eps=eps), batches=2, samples=2)
            assert score.item() == pytest.approx(radius)
    assert clever(flat, x, y, LINF, batches=2, samples=2, radius=0.2).item() == pytest.approx(0.2)


def test_it_is_near_the_distance_of_a_smooth_model_where_the_points_see_its_slope() -> None:
    model = Smooth(3, scale=1.5)
    x = torch.rand(6, 1, 1, 2, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    y = model(x).argmax(1)
    true = []
    for i in range(len(x)):
        u = grid(x[i : i + 1], Threat(norm=inf, eps=0.5), 101)
        wrong = (model(u).argmax(1) != y[i]).nonzero()[:, 0]
        true.append((u[wrong] - x[i]).flatten(1).abs().amax(1).min().item() if len(wrong) else 0.5)
    found = clever(model, x, y, LINF, batches=20, samples=16, target="every")
    assert (found <= torch.tensor(true) + 0.01).all()
    assert (found >= 0.3 * torch.tensor(true)).all()


def test_it_exceeds_the_distance_where_the_gradient_is_masked() -> None:
    """A step that no point sees a slope of: CLEVER is an estimate and no certificate."""

    class Step(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            q = 2 * (x.flatten(1).sum(1) > 1.02).float() - 1 + 1e-3 * x.flatten(1).sum(1)
            return torch.stack([-q / 2, q / 2], 1)

    x, y = image(0.5, 0.5)
    assert Step()(x + 0.02).argmax(1).item() == 1
    assert clever(Step(), x, y, LINF, batches=3, samples=5).item() == pytest.approx(0.5)


def test_a_gradient_that_is_not_finite_scores_0_and_the_other_images_do_not_notice() -> None:
    """The slope is infinite at u_0 = 0 and not a number at u_1 > 0.9."""

    class Cusps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            u = x.flatten(1)
            q = 1 + 2 * u[:, 1] + u[:, 0].sqrt() + 1e-3 * torch.where(u[:, 1] > 0.9, 0.0, (0.9 - u[:, 1]).sqrt())
            return torch.stack([q, 0 * q], 1)

    x, y = torch.tensor([[0.5, 0.5], [0.0, 0.5], [0.5, 1.0], [0.5, 0.5]]).view(4, 1, 1, 2), torch.tensor([0, 0, 0, 1])
    for target in ("runner-up", "every"):
        found = clever(Cusps(), x, y, LINF, batches=3, samples=20, radius=0.05, target=target)
        assert found.tolist() == pytest.approx([0.05, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("shape", [0.7, 1.5, 3.0])
def test_the_location_of_draws_with_a_known_end(shape: float) -> None:
    draws = weibull_max.rvs(shape, loc=10, scale=2, size=2000, random_state=np.random.default_rng(0))
    end = location(draws)
    assert end >= draws.max()
    assert end == pytest.approx(10, abs=0.15)
    assert location(1e-3 * draws) == pytest.approx(1e-3 * end, rel=1e-3)  # no scale of its own


def test_degenerate_maxima_have_an_end_and_no_warnings() -> None:
    rng = np.random.default_rng(0)
    assert location(np.full(50, 3.0)) == 3
    assert location(np.zeros(5)) == 0
    assert location(np.array([2.0])) == 2
    for _ in range(20):  # a light tail fits best with an end at infinity
        draws = rng.normal(size=(50, 64)).max(1)
        assert draws.max() <= location(draws) <= draws.max() + 10 * draws.std()
