"""Intervals and tests against arithmetic."""

from math import comb, isnan, sqrt

import pytest
import torch

from kdiga.errors import BadInput
from kdiga.stats import mean_sd, paired, wilson


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


def test_mean_and_spread_over_seeds() -> None:
    assert mean_sd([1.0, 2.0, 6.0]) == pytest.approx((3.0, sqrt(7)))
    mean, sd = mean_sd([4.0])
    assert mean == 4.0
    assert isnan(sd)
    with pytest.raises(BadInput, match="at least one"):
        mean_sd([])
