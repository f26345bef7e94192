"""Intervals and tests against arithmetic."""

import itertools
from math import comb, isnan, sqrt

import pytest
import torch

from kdiga.errors import BadInput
from kdiga.stats import mean_sd, paired, paired_seeds, wilson


def test_wilson_against_its_formula() -> None:
    z = 1.959963984540054
    for k, n in ((8, 10), (0, 20), (20, 20), (431, 1000)):
        centre, half = k + z * z / 2, z * sqrt(k * (n - k) / n + z * z / 4)
        assert wilson(k, n) == pytest.approx(((centre - half) / (n + z * z), (centre + half) / (n + z * z)), abs=1e-12)
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_more_confidence_is_wider() -> None:
    low, high = wilson(30, 100, confidence=0.99)
    assert low < wilson(30, 100)[0] < 0.3 < wilson(30, 100)[1] < high


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_no_share(k: int, n: int) -> None:
    with pytest.raises(BadInput, match="no share of a sample"):
        wilson(k, n)


def test_paired_counts_only_the_images_on_which_the_models_differ() -> None:
    both, only_a, only_b = 50, 9, 2
    a = torch.tensor([True] * (both + only_a) + [False] * only_b)
    b = torch.tensor([True] * both + [False] * only_a + [True] * only_b)
    expected = 2 * sum(comb(11, i) for i in range(3)) / 2**11
    assert paired(a, b) == pytest.approx(expected)
    assert paired(b, a) == pytest.approx(expected)
    assert paired(a, a) == 1.0


def test_paired_needs_the_same_images() -> None:
    with pytest.raises(BadInput, match="2 and 3 outcomes"):
        paired(torch.tensor([True, False]), torch.tensor([True, False, True]))


def test_with_one_seed_the_permutation_test_is_mcnemars() -> None:
    g = torch.Generator().manual_seed(0)
    for n in (1, 7, 60, 1500):
        a, b = (torch.rand(1, n, generator=g) < share for share in (0.6, 0.5))
        assert paired_seeds(a, b) == pytest.approx(paired(a[0], b[0]), rel=1e-9)


@pytest.mark.parametrize(("seeds_a", "seeds_b"), [(3, 3), (2, 3), (1, 2)])
def test_the_permutation_test_counts_every_choice_of_signs(seeds_a: int, seeds_b: int) -> None:
    g = torch.Generator().manual_seed(seeds_a + 10 * seeds_b)
    for _ in range(5):
        a, b = torch.rand(seeds_a, 9, generator=g) < 0.7, torch.rand(seeds_b, 9, generator=g) < 0.4
        shares = [(a[:, j].double().mean() - b[:, j].double().mean()).item() for j in range(9)]
        sums = [abs(sum(s * d for s, d in zip(signs, shares, strict=True))) for signs in itertools.product((-1, 1), repeat=9)]
        expected = sum(s >= abs(sum(shares)) - 1e-9 for s in sums) / 2**9
        assert paired_seeds(a, b) == pytest.approx(expected)
        assert paired_seeds(b, a) == pytest.approx(expected)


def test_the_permutation_test_needs_the_same_images_and_sees_no_difference_where_there_is_none() -> None:
    a = torch.tensor([[True, False, True], [True, True, False]])
    assert paired_seeds(a, a) == 1.0
    assert paired_seeds(a, a.flip(0)) == 1.0
    one_sided = paired_seeds(torch.ones(3, 20, dtype=torch.bool), torch.zeros(3, 20, dtype=torch.bool))
    assert one_sided == pytest.approx(2 / 2**20)
    with pytest.raises(BadInput, match="3 and 2 outcomes"):
        paired_seeds(a, a[:, :2])
    with pytest.raises(BadInput, match="at least one seed"):
        paired_seeds(a, a[:0])


def test_mean_and_spread_over_seeds() -> None:
    assert mean_sd([1.0, 2.0, 6.0]) == pytest.approx((3.0, sqrt(7)))
    mean, sd = mean_sd([4.0])
    assert mean == 4.0
    assert isnan(sd)
    with pytest.raises(BadInput, match="at least one"):
        mean_sd([])
