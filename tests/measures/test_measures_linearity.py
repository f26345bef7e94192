"""Local linearity and the linear bound against closed forms, and against a grid that sees the whole ball."""

from itertools import pairwise
from math import exp, inf, log, log1p

import pytest
import torch
from closed_form import L2, LINF, Quadratic, Smooth, diagonal, grid, image

from kdiga.measures.linearity import linear_bound, local_linearity
from kdiga.measures.tangent import LOSSES, Loss, Search
from kdiga.types import Threat

both_norms = pytest.mark.parametrize("threat", [LINF, L2], ids=str)


@both_norms
def test_a_linear_margin_is_its_own_tangent_and_the_bound_is_its_worst_case(threat: Threat) -> None:
    model, (x, y) = Quadratic(-0.8, [2.0, -1.0, 0.5]), image(0.5, 0.5, 0.5)
    assert local_linearity(model, x, y, threat, loss="margin", steps=10).item() == pytest.approx(0, abs=1e-6)
    length = 3.5 if threat.norm == inf else 5.25**0.5
    assert linear_bound(model, x, y, threat, loss="margin", steps=10).item() == pytest.approx(-0.8 + 0.1 * length, abs=1e-6)


@both_norms
def test_the_cross_entropy_of_a_linear_margin_departs_by_the_curvature_of_the_logistic_function(threat: Threat) -> None:
    model, (x, y) = Quadratic(-0.8, [2.0, -1.0, 0.5]), image(0.5, 0.5, 0.5)
    reach = 0.1 * (3.5 if threat.norm == inf else 5.25**0.5)
    slope = 1 / (1 + exp(0.8))
    expected = max(log1p(exp(-0.8 + s)) - log1p(exp(-0.8)) - slope * s for s in (-reach, reach))
    assert local_linearity(model, x, y, threat, steps=20).item() == pytest.approx(expected, rel=1e-3)
    assert local_linearity(model, x, y, threat, steps=20, signed=True).item() == pytest.approx(expected, rel=1e-3)  # convex
    bound = linear_bound(model, x, y, threat, steps=20).item()
    assert bound == pytest.approx(log1p(exp(-0.8)) + slope * reach + expected, rel=1e-3)


@pytest.mark.parametrize(
    ("threat", "above", "below"),
    [(LINF, 0.5 * 0.01 * (6 + 2), 0.5 * 0.01 * 10), (L2, 0.5 * 0.01 * 6, 0.5 * 0.01 * 10)],
    ids=["linf: all pixels add up", "l2: the largest eigenvalue"],
)
def test_a_quadratic_margin_departs_by_half_its_curvature_in_either_direction(threat: Threat, above: float, below: float) -> None:
    model, (x, y) = Quadratic(-0.3, [1.0, 2.0, -1.0], diagonal(6.0, -10.0, 2.0)), image(0.5, 0.5, 0.5)
    assert local_linearity(model, x, y, threat, loss="margin").item() == pytest.approx(below, rel=0.02)
    assert local_linearity(model, x, y, threat, loss="margin", signed=True).item() == pytest.approx(above, rel=0.02)
    assert linear_bound(model, x, y, threat, loss="margin").item() == pytest.approx(
        -0.3 + 0.1 * (4 if threat.norm == inf else 6**0.5) + above, rel=0.02
    )


def test_the_sign_is_that_of_the_residual() -> None:
    x, y = image(0.5, 0.5)
    convex, concave = Quadratic(0.0, [1.0, 1.0], diagonal(4.0, 4.0)), Quadratic(0.0, [1.0, 1.0], diagonal(-4.0, -4.0))
    for model, signed in ((convex, 0.04), (concave, 0.0)):
        assert local_linearity(model, x, y, LINF, loss="margin", steps=10).item() == pytest.approx(0.04, rel=1e-3)
        assert local_linearity(model, x, y, LINF, loss="margin", steps=10, signed=True).item() == pytest.approx(
            signed, rel=1e-3, abs=1e-7
        )


@both_norms
def test_the_residual_is_searched_in_the_box_and_the_linear_part_of_the_bound_is_not(threat: Threat) -> None:
    wide, (x, y) = Threat(norm=threat.norm, eps=1.0), image(0.4)
    model = Quadratic(0.0, [5.0], [[8.0]], at=0.4)
    assert local_linearity(model, x, y, wide, loss="margin", steps=20).item() == pytest.approx(
        4 * 0.6**2, rel=1e-3
    )  # without the box: 4
    assert linear_bound(model, x, y, wide, loss="margin", steps=20).item() == pytest.approx(5 + 4 * 0.6**2, rel=1e-3)


@both_norms
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_found_is_what_a_grid_finds_and_the_bound_is_never_violated(loss: Loss, threat: Threat) -> None:
    model, f = Smooth(0), LOSSES[loss]
    x = torch.tensor([[0.5, 0.45], [0.03, 0.98], [0.6, 0.2], [1.0, 0.7]]).view(4, 1, 1, 2)
    y = torch.tensor([0, 1, 2, 0])
    here = x.clone().requires_grad_()
    value = f(model(here), y)
    (g,) = torch.autograd.grad(value.sum(), here)
    torch.manual_seed(0)
    found = local_linearity(model, x, y, threat, loss=loss, steps=20, restarts=20)
    signed = local_linearity(model, x, y, threat, loss=loss, steps=20, restarts=20, signed=True)
    bound = linear_bound(model, x, y, threat, loss=loss, steps=20, restarts=20)
    for i in range(len(x)):
        u = grid(x[i : i + 1], threat)
        there = f(model(u), y[i].expand(len(u)))
        residual = (there - value[i] - ((u - x[i]) * g[i]).flatten(1).sum(1)).detach()
        for ours, true in ((found[i], residual.abs().max()), (signed[i], residual.max())):
            assert 0.9 * true - 1e-5 <= ours <= 1.01 * true + 1e-5
        assert bound[i] >= there.max() - 1e-4


def test_more_restarts_never_find_less_and_the_ball_only_grows() -> None:
    model, x, y = Smooth(4, scale=12.0), torch.rand(12, 1, 1, 2, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    found = []
    for restarts in (1, 2, 3, 6):
        torch.manual_seed(0)
        found.append(local_linearity(model, x, y, LINF, steps=5, restarts=restarts))
    assert all((more >= less).all() for less, more in pairwise(found))
    assert (found[-1] > found[0]).any()
    sizes = [local_linearity(Smooth(4), x, y, Threat(norm=inf, eps=eps), steps=20) for eps in (0.0, 0.02, 0.1, 0.3)]
    assert (sizes[0] == 0).all()
    assert all((large >= small).all() for small, large in pairwise(sizes))


def test_the_best_point_counts_and_not_the_last() -> None:
    """The residual of a narrow ridge: steps of eps cross it and end beyond, where it is lower."""

    class Ridge(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q = torch.exp(-(((x.flatten(1)[:, 0] - 0.56) / 0.01) ** 2))
            return torch.stack([-q / 2, q / 2], 1)

    x, y = image(0.5)
    torch.manual_seed(0)
    found = [local_linearity(Ridge(), x, y, LINF, loss="margin", steps=steps, restarts=8).item() for steps in (4, 50)]
    assert min(found) == pytest.approx(found[1], rel=0.6)
    assert found[1] == pytest.approx(1.0, rel=1e-2)


def test_where_an_ascent_ends_is_looked_at_too() -> None:
    x, slope = torch.full((16, 1, 1, 2), 0.5), torch.tensor([2.0, -1.0])
    found = Search(x, LINF, steps=2, restarts=1).highest(
        lambda u: (u - x).flatten(1) @ slope
    )  # two steps of eps: the corner is the end
    assert torch.allclose(found, torch.full((16,), 0.3), atol=1e-5)


def test_a_search_starts_where_the_loss_is_high_as_well() -> None:
    """From 19 of 20 points of the ball the residual rises to 0.02 at the far end; the loss leads to the other, where it is 0.08."""

    class Hidden(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            d = x.flatten(1)[:, 0] - 0.5
            q = d - 2 * d * d.abs() + 10 * (d - 0.09).relu()
            return torch.stack([-q / 2, q / 2], 1)

    x, y = image(0.5)
    for seed in range(3):
        torch.manual_seed(seed)
        assert local_linearity(Hidden(), x, y, LINF, loss="margin", restarts=1).item() == pytest.approx(0.08, rel=1e-3)


@both_norms
def test_below_log_2_by_the_bound_no_point_of_the_ball_is_misclassified(threat: Threat) -> None:
    model = Smooth(1, scale=1.0)
    x = torch.rand(30, 1, 1, 2, generator=torch.Generator().manual_seed(3))
    y = model(x).argmax(1)
    small = Threat(norm=threat.norm, eps=0.1)
    limits: dict[Loss, float] = {"ce": log(2), "margin": 0.0}
    for loss, limit in limits.items():
        robust = linear_bound(model, x, y, small, loss=loss, steps=10) < limit
        truth = torch.tensor([bool((model(grid(x[i : i + 1], small)).argmax(1) == y[i]).all()) for i in range(len(x))])
        assert (truth | ~robust).all()
        assert 0.1 < robust.float().mean() < 1
        assert not truth.all()
