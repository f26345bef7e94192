"""Intervals and tests against arithmetic."""

import itertools
from math import comb, isnan, sqrt

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from kdiga.errors import BadInput
from kdiga.stats import concordance, images_to_separate, mean_sd, paired, paired_seeds, spearman, wilson


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


def power_of_the_exact_test(n: int, only_a: float, only_b: float) -> float:
    """The probability that `paired` rejects at 0.05, over every count of images on which two models differ."""
    total, binom = 0.0, scipy_stats.binom
    for differing in range(n + 1):
        chance = binom.pmf(differing, n, only_a + only_b)
        if chance > 1e-9:
            k = np.arange(differing + 1)
            rejected = 2 * binom.cdf(np.minimum(k, differing - k), differing, 0.5) <= 0.05
            total += chance * binom.pmf(k[rejected], differing, only_a / (only_a + only_b)).sum()
    return total


@pytest.mark.parametrize(("p_a", "p_b", "discordant"), [(0.6, 0.5, 0.3), (0.45, 0.44, 0.02), (0.9, 0.86, 0.1), (0.3, 0.35, None)])
def test_on_so_many_images_the_exact_test_has_the_power_asked_for(p_a: float, p_b: float, discordant: float | None) -> None:
    n = images_to_separate(p_a, p_b, discordant=discordant)
    share = discordant if discordant is not None else p_a * (1 - p_b) + p_b * (1 - p_a)
    ahead, behind = (share + abs(p_a - p_b)) / 2, (share - abs(p_a - p_b)) / 2
    assert 0.785 < power_of_the_exact_test(n, ahead, behind) < 0.83
    assert power_of_the_exact_test(int(0.9 * n), ahead, behind) < 0.79
    assert images_to_separate(p_b, p_a, discordant=discordant) == n


def test_paired_itself_rejects_on_four_of_five_draws_of_so_many_images() -> None:
    n, g = images_to_separate(0.7, 0.6, discordant=0.2), torch.Generator().manual_seed(0)
    u = torch.rand(400, n, generator=g)
    a, b = u < 0.7, (u < 0.55) | (u > 0.95)  # a alone on 0.15, b alone on 0.05
    rejected = [paired(x, y) <= 0.05 for x, y in zip(a, b, strict=True)]
    assert sum(rejected) / 400 == pytest.approx(0.8, abs=0.06)


def test_independent_models_need_what_two_unpaired_samples_need() -> None:
    """The formula for two proportions with Fleiss's correction (Fleiss, Tytun and Ury 1980, Biometrics 36), which is another one."""
    z_a, z_b = 1.959963984540054, 0.8416212335729143
    for p, q in ((0.5, 0.45), (0.3, 0.28), (0.9, 0.85)):
        d, mean = p - q, (p + q) / 2
        plain = (z_a * sqrt(2 * mean * (1 - mean)) + z_b * sqrt(p * (1 - p) + q * (1 - q))) ** 2 / d**2
        corrected = plain / 4 * (1 + sqrt(1 + 4 / (plain * d))) ** 2
        assert images_to_separate(p, q) == pytest.approx(corrected, rel=0.01)
    assert images_to_separate(0.5, 0.45, discordant=0.1) < images_to_separate(0.5, 0.45) / 3


def test_more_power_and_a_smaller_alpha_take_more_images() -> None:
    n = images_to_separate(0.5, 0.45, discordant=0.2)
    assert images_to_separate(0.5, 0.45, discordant=0.2, power=0.9) / n == pytest.approx(1.33, abs=0.03)
    assert images_to_separate(0.5, 0.45, discordant=0.2, alpha=0.01) / n == pytest.approx(1.48, abs=0.03)


@pytest.mark.parametrize(
    ("p_a", "p_b", "discordant", "said"),
    [(0.5, 0.5, None, "equal accuracy"), (0.6, 0.4, 0.1, "at least their difference"), (41.0, 37.0, None, "fractions from 0 to 1")],
)
def test_what_no_number_of_images_answers(p_a: float, p_b: float, discordant: float | None, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        images_to_separate(p_a, p_b, discordant=discordant)


def test_rank_correlation_and_its_p_over_all_orders() -> None:
    """Six models, no ties and ties: rho by Pearson's formula on the ranks, p by counting all 720 orders."""
    for a, b in (
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2.0, 1.0, 4.0, 3.0, 6.0, 5.0]),
        ([0.0, 0.0, 3.0, 4.0, 5.0, 9.0], [6.0, 5.0, 5.0, 4.0, 1.0, 2.0]),
    ):
        found = spearman(a, b)
        assert found is not None
        x, y = (scipy_stats.rankdata(v) for v in (a, b))
        every = np.array([np.corrcoef(x, order)[0, 1] for order in itertools.permutations(y)])
        assert found.rho == pytest.approx(np.corrcoef(x, y)[0, 1])
        # both tails as often as the smaller of the two: what a two-sided p is where a tail may be the longer one
        tails = (every >= found.rho - 1e-9).mean(), (every <= found.rho + 1e-9).mean()
        assert found.p == pytest.approx(min(1.0, 2 * min(tails)))
        assert found.low < found.rho < found.high


def test_the_interval_of_a_rank_correlation() -> None:
    found = spearman([float(i) for i in range(12)], [1.0, 0.0, 3.0, 2.0, 5.0, 4.0, 7.0, 6.0, 9.0, 8.0, 11.0, 10.0])
    assert found is not None
    half = 1.959963984540054 * sqrt((1 + found.rho**2 / 2) / 9)
    assert np.arctanh([found.low, found.high]) == pytest.approx([np.arctanh(found.rho) - half, np.arctanh(found.rho) + half])
    few = spearman([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])
    assert few is not None
    assert (few.low, few.high) == (-1, 1)


def test_a_perfect_order_of_few_models_is_no_certainty() -> None:
    found = spearman([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert found is not None
    assert found.rho == found.high == pytest.approx(1)
    assert 0.4 < found.low < 0.8
    assert found.p == pytest.approx(2 / 720)


def test_the_interval_covers_the_rank_correlation_that_the_models_were_drawn_from() -> None:
    rng, hits = np.random.default_rng(0), 0
    true = 6 / np.pi * np.arcsin(0.8 / 2)  # of a normal pair with correlation 0.8
    for _ in range(200):
        x = rng.standard_normal(6)
        found = spearman(x.tolist(), (0.8 * x + 0.6 * rng.standard_normal(6)).tolist())
        assert found is not None
        hits += found.low <= true <= found.high
    assert hits / 200 > 0.93


def test_a_constant_has_no_rank_correlation_and_two_pairs_are_too_few() -> None:
    assert spearman([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]) is None
    with pytest.raises(BadInput, match="2 and 2 given"):
        spearman([1.0, 2.0], [1.0, 2.0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_has_no_rank_correlation(value: float) -> None:
    for a, b in (([1.0, 2.0, value, 4.0], [1.0, 2.0, 3.0, 4.0]), ([1.0, 2.0, 3.0, 4.0], [value, 2.0, 3.0, 4.0])):
        with pytest.raises(BadInput, match="finite"):
            spearman(a, b)


def test_concordance_counts_pairs() -> None:
    g = torch.Generator().manual_seed(0)
    score, outcome = torch.randint(0, 6, (40,), generator=g).float(), torch.rand(40, generator=g) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in score[outcome].tolist() for b in score[~outcome].tolist()]
    assert concordance(score, outcome) == pytest.approx(sum(pairs) / len(pairs))
    assert concordance(score, torch.ones(40, dtype=torch.bool)) is None


def test_mean_and_spread_over_seeds() -> None:
    assert mean_sd([1.0, 2.0, 6.0]) == pytest.approx((3.0, sqrt(7)))
    mean, sd = mean_sd([4.0])
    assert mean == 4.0
    assert isnan(sd)
    with pytest.raises(BadInput, match="at least one"):
        mean_sd([])
