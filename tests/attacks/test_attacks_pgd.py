"""The one-loop attacks against arithmetic."""

import pytest
import torch
from known_answers import L2, LINF, Linear, problem

from kdiga.attacks import ATTACKS
from kdiga.attacks.pgd import fgsm, pgd, pgd20, pgd100
from kdiga.errors import BadInput
from kdiga.types import Attack, Threat


@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
@pytest.mark.parametrize("attack", [fgsm, pgd20, pgd100])
def test_the_margin_on_a_linear_model_falls_by_eps_times_the_dual_norm(attack: Attack, threat: Threat) -> None:
    model = Linear(2)
    x, y, worst = problem(model, threat)
    z = model(attack(model, x, y, threat))
    rest = z.scatter(1, y[:, None], -torch.inf).amax(1)
    torch.testing.assert_close(z.gather(1, y[:, None])[:, 0] - rest, worst, atol=1e-3, rtol=0)


def test_the_named_variants_take_the_documented_steps() -> None:
    model, calls = Linear(2), [0]
    model.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    x, y, _ = problem(model, LINF)
    for name, steps in (("fgsm", 1), ("pgd20", 20), ("pgd100", 100)):
        calls[0] = 0
        ATTACKS[name](model, x, y, LINF)
        assert calls[0] == steps


def test_one_step_is_of_length_eps_along_the_sign() -> None:
    model, x, y = Linear(2), torch.full((1, 1, 6, 6), 0.5), torch.tensor([0])
    expected = x + LINF.eps * (model.weight[1] - model.weight[0]).sign().view(1, 1, 6, 6)
    torch.testing.assert_close(fgsm(model, x, y, LINF), expected)


def test_the_start_is_random_and_inside() -> None:
    """A model without a gradient leaves the iterate where it started."""
    model, x, y = Linear(2), torch.full((500, 1, 6, 6), 0.5), torch.zeros(500, dtype=torch.int64)
    with torch.no_grad():
        model.weight.zero_()
    d = (pgd20(model, x, y, LINF) - x) / LINF.eps
    assert d.abs().max() <= 1 + 1e-5
    assert d.mean().abs() < 0.02
    assert abs(d.var() - 1 / 3) < 0.01


def test_steps_that_cannot_cross_the_ball_are_refused() -> None:
    model, x, y = Linear(2), torch.rand(1, 1, 6, 6), torch.tensor([0])
    with pytest.raises(BadInput, match=r"10 steps of 0.1 eps cannot cross the ball.*at least 0.2"):
        pgd(model, x, y, LINF, steps=10, step=0.1)
