"""Gradient alignment on linear margins, whose gradients are known, and at the model's own adversarial images."""

from math import exp

import pytest
import torch
from closed_form import LINF, Quadratic, Smooth, diagonal, image

from kdiga.attacks import ATTACKS
from kdiga.losses import cross_entropy
from kdiga.measures.alignment import gradient_cosine, gradient_l1, gradient_l2


def test_distances_and_cosine_of_known_gradients() -> None:
    model, teacher, (x, y) = Quadratic(-0.5, [3.0, -1.0, 2.0]), Quadratic(-2.0, [1.0, 2.0, 2.0]), image(0.5, 0.5, 0.5)
    assert gradient_l2(model, x, y, LINF, teacher=teacher, loss="margin").item() == pytest.approx(13**0.5)
    assert gradient_l1(model, x, y, LINF, teacher=teacher, loss="margin").item() == pytest.approx(5)
    assert gradient_cosine(model, x, y, LINF, teacher=teacher, loss="margin").item() == pytest.approx(5 / (14 * 9) ** 0.5)
    own, other = (
        1 / (1 + exp(0.5)),
        1 / (1 + exp(2.0)),
    )  # of the cross-entropy: the logistic function of the margin, times the gradient
    expected = abs(3 * own - other) + abs(-own - 2 * other) + abs(2 * own - 2 * other)
    assert gradient_l1(model, x, y, LINF, teacher=teacher).item() == pytest.approx(expected)
    assert gradient_cosine(model, x, y, LINF, teacher=teacher).item() == pytest.approx(5 / (14 * 9) ** 0.5)


def test_a_cosine_does_not_depend_on_how_small_a_gradient_is_and_is_0_where_there_is_none() -> None:
    (x, y), teacher = image(0.5, 0.5), Quadratic(0.0, [1.0, 1.0])
    for scale, expected in ((1e-7, 1.0), (1e-30, 1.0), (0.0, 0.0)):
        model = Quadratic(0.0, [scale, scale])
        assert gradient_cosine(model, x, y, LINF, teacher=teacher).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("lead", [0.0, 5.0, 17.0, 20.0, 35.0, 60.0, 1000.0])
def test_a_cosine_does_not_depend_on_how_far_the_label_leads(lead: float) -> None:
    """Two linear logits, not each other's opposite: the loss goes up along the wrong one's gradient less the label's, (-1, 2) and (0, 1)."""

    class Sure(torch.nn.Module):
        def __init__(self, lead: float, label: list[float]) -> None:
            super().__init__()
            self.lead, self.label = lead, torch.tensor(label)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            u = x.flatten(1) - 0.5
            return torch.stack([self.lead + u @ self.label, u @ torch.tensor([1.0, 1.0])], 1)

    (x, y), teacher = image(0.5, 0.5), Sure(1.0, [2.0, -1.0])
    for label, expected in (([2.0, -1.0], 1.0), ([1.0, 0.0], 2 / 5**0.5)):
        assert gradient_cosine(Sure(lead, label), x, y, LINF, teacher=teacher).item() == pytest.approx(expected, abs=1e-6)


def test_a_cosine_of_the_cross_entropy_is_that_of_its_own_gradients() -> None:
    model, teacher = Smooth(0), Smooth(1)
    x, y = torch.rand(6, 1, 1, 2, generator=torch.Generator().manual_seed(0)).requires_grad_(), torch.tensor([0, 1, 2, 0, 1, 2])
    own, other = (torch.autograd.grad(cross_entropy(m(x), y).sum(), x)[0].flatten(1) for m in (model, teacher))
    expected = torch.nn.functional.cosine_similarity(own, other)
    assert torch.allclose(gradient_cosine(model, x.detach(), y, LINF, teacher=teacher), expected, atol=1e-5)


def test_adversarial_gradients_are_taken_at_the_models_own_worst_point() -> None:
    """The margin rises along (1, -1), so PGD goes to the corner (0.1, -0.1), where the gradient is larger by the curvature."""
    model, teacher = Quadratic(-0.5, [1.0, -1.0], diagonal(5.0, 8.0)), Quadratic(-0.5, [-1.0, 1.0])
    x, y = image(0.5, 0.5)
    assert gradient_l1(model, x, y, LINF, teacher=teacher, loss="margin").item() == pytest.approx(4)
    found = gradient_l1(model, x, y, LINF, teacher=teacher, loss="margin", point="adversarial").item()
    assert found == pytest.approx(abs(1.5 + 1) + abs(-1.8 - 1), rel=1e-4)


def test_adversarial_means_pgd20_on_the_cross_entropy() -> None:
    model, teacher = Smooth(0), Smooth(1)
    x, y = torch.rand(5, 1, 1, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])
    torch.manual_seed(0)
    u = ATTACKS["pgd20"](model, x, y, LINF).requires_grad_()
    own, other = (torch.autograd.grad(cross_entropy(m(u), y).sum(), u)[0] for m in (model, teacher))
    torch.manual_seed(0)
    found = gradient_l2(model, x, y, LINF, teacher=teacher, point="adversarial")
    assert torch.allclose(found, (own - other).flatten(1).norm(dim=1), atol=1e-6)
    assert not torch.allclose(found, gradient_l2(model, x, y, LINF, teacher=teacher), atol=1e-2)
