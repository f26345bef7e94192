"""Each term against a formula worked out another way."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdiga.losses import cross_entropy, input_gradient, kl, norm


def logits(seed: int, n: int = 5, k: int = 10) -> Tensor:
    return 3 * torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cross_entropy_is_minus_log_probability() -> None:
    z, y = logits(0), torch.arange(5)
    expected = [-math.log(math.exp(row[i]) / sum(math.exp(v) for v in row)) for i, row in enumerate(z.tolist())]
    assert cross_entropy(z, y).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_is_the_sum_over_classes_times_the_temperature_squared(classes: int, temperature: float) -> None:
    z, target = logits(1, k=classes), logits(2, k=classes)
    p, q = torch.softmax(target / temperature, 1), torch.softmax(z / temperature, 1)
    expected = temperature**2 * (p * (p / q).log()).sum(1)
    assert torch.allclose(kl(z, target, temperature), expected)


def test_kl_puts_the_target_first() -> None:
    sure, unsure = torch.tensor([[20.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert kl(unsure, sure).item() == pytest.approx(math.log(2), abs=1e-6)  # KL(sure || unsure)
    assert kl(sure, unsure).item() > 5  # KL(unsure || sure)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_kl_is_zero_only_at_equality(seed: int) -> None:
    z = logits(seed)
    assert kl(z, z).abs().max() < 1e-12
    assert (kl(z, z.roll(1, 1)) > 0).all()


def test_bfloat16_logits_are_widened() -> None:
    z, y = logits(3).bfloat16(), torch.arange(5)
    assert cross_entropy(z, y).dtype == torch.float32
    assert kl(z, z).dtype == torch.float32


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_norm_and_its_gradient_at_zero(p: float) -> None:
    v = torch.zeros(2, 1, 2, 2)
    v[1] = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    v.requires_grad_()
    assert norm(v, p).tolist() == [0.0, {1.0: 7.0, 2.0: 5.0, math.inf: 4.0}[p]]
    (g,) = torch.autograd.grad(norm(v, p).sum(), v)
    assert g.isfinite().all()
    assert (g[0] == 0).all()


def test_input_gradient_does_not_shrink_with_the_batch() -> None:
    x = torch.randn(1, 1, 2, 2)
    for size in (1, 8):
        many = x.repeat(size, 1, 1, 1).requires_grad_()
        assert torch.allclose(input_gradient((many**2).flatten(1).sum(1), many)[0], 2 * x[0])
