"""What a count of test images says: an interval, a paired test, how many images it takes, rank correlations, mean and spread over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import atanh, ceil, gcd, inf, sqrt, tanh
from statistics import NormalDist, fmean, stdev

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from kdiga.errors import BadInput
from kdiga.types import Outcomes, PerSample

EVERY = 50_000  # orders of one of the two samples: all of them up to eight pairs, a random choice beyond


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (Wilson 1927) for the share of which `successes` of `n` is a sample: (low, high), fractions."""
    from scipy.stats import binomtest

    if not 0 <= successes <= n or n == 0:
        raise BadInput(f"{successes} of {n} is no share of a sample: n must be at least 1 and successes between 0 and n")
    low, high = binomtest(successes, n).proportion_ci(confidence_level=confidence, method="wilson")
    return float(low), float(high)


def paired(a: Bool[Tensor, "n"], b: Bool[Tensor, "m"]) -> float:
    """Two-sided p-value of McNemar's exact test (1947) that two models are right equally often on the same images, in the same order.

    Only images on which they differ count; 1.0 where there are none. Raises BadInput where the numbers of images differ.
    """
    from scipy.stats import binomtest

    if len(a) != len(b):
        raise BadInput(f"a paired test needs the same images for both models: {len(a)} and {len(b)} outcomes given")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def paired_seeds(a: Bool[Tensor, "s n"], b: Bool[Tensor, "r m"]) -> float:
    """Two-sided p-value of the exact sign-flip permutation test (Fisher 1935) that two methods are right equally often: `a[i, j]` says
    whether the first method's model of seed i is right on image j.

    The images are the sample, independent of each other, and the trained models are taken as they are: under the null hypothesis the
    difference between the shares of seeds that are right on an image has either sign with probability 1/2, image by image. The statistic is
    the difference of the means. Nothing is said of other seeds. With one seed each it is McNemar's exact test, as `paired`.
    """
    from scipy.stats import binom

    if a.shape[1] != b.shape[1]:
        raise BadInput(f"a paired test needs the same images for both methods: {a.shape[1]} and {b.shape[1]} outcomes given")
    if not len(a) or not len(b):
        raise BadInput("a paired test needs at least one seed of each method")
    difference = (a.sum(0) * len(b) - b.sum(0) * len(a)).cpu().numpy() // gcd(len(a), len(b))  # of the shares, in whole units
    chance = np.ones(1)  # chance[j]: that the positive differences add up to j
    for size, images in enumerate(np.bincount(np.abs(difference))):
        if size and images:
            own = np.zeros(size * images + 1)
            own[::size] = binom.pmf(np.arange(images + 1), images, 0.5)
            chance = np.convolve(chance, own)
    distance = np.abs(2 * np.arange(len(chance)) - (len(chance) - 1))  # of positive and negative differences
    return min(float(chance[distance >= abs(int(difference.sum()))].sum()), 1.0)


def images_to_separate(p_a: float, p_b: float, *, discordant: float | None = None, power: float = 0.8, alpha: float = 0.05) -> int:
    """The number of images on which `paired`, two-sided at level `alpha`, tells two models of accuracy p_a and p_b apart with probability
    `power`; `discordant` is the share of images on which one of them is right and the other is not.

    Connor 1987 (Biometrics 43), sqrt(n) = (z_alpha sqrt(s) + z_power sqrt(s - d^2)) / d for d = |p_a - p_b| and discordant share s, with
    the continuity correction that an exact test needs: |b - c| - 1 in place of |b - c|. Without `discordant`, the worst that two models
    do which are not worse than independent of each other: s = p_a (1 - p_b) + p_b (1 - p_a), as many images as an unpaired test needs for each
    model. Raises BadInput where the accuracies are equal, which no number of images separates, or do not go with `discordant`.
    """
    d = abs(p_a - p_b)
    share = p_a * (1 - p_b) + p_b * (1 - p_a) if discordant is None else discordant
    if not (0 <= p_a <= 1 and 0 <= p_b <= 1 and 0 < power < 1 and 0 < alpha < 1):
        raise BadInput(f"accuracies are fractions from 0 to 1, power and alpha between 0 and 1: got {p_a}, {p_b}, {power}, {alpha}")
    if d == 0:
        raise BadInput("two models of equal accuracy are not told apart by any number of images")
    if not d - 1e-9 <= share <= min(p_a + p_b, 2 - p_a - p_b) + 1e-9:
        raise BadInput(f"accuracies {p_a} and {p_b} do not go with a discordant share of {share}: it is at least their difference")
    normal = NormalDist()
    root = normal.inv_cdf(1 - alpha / 2) * sqrt(share) + normal.inv_cdf(power) * sqrt(max(share - d * d, 0.0))
    return ceil(((root + sqrt(root**2 + 4 * d)) / (2 * d)) ** 2)


@dataclass(frozen=True)
class Ranks:
    """Spearman's rank correlation `rho`, its 95 % interval from `low` to `high`, and the two-sided p-value that there is none."""

    rho: float
    low: float
    high: float
    p: float


def spearman(a: Sequence[float], b: Sequence[float]) -> Ranks | None:
    """The rank correlation of two samples (Spearman 1904), ties at their mean rank; None where all values of one are the same.

    p: permutation test over all orders of b, from nine pairs on over a random choice of them, the same at each call. Interval: Fisher's
    z with the standard error sqrt((1 + rho^2 / 2) / (n - 3)) of Bonett and Wright 2000 (Psychometrika 65); from three pairs it is -1 to 1.
    As z is infinite at 1, |rho| counts there as that of the order next to perfect. Raises BadInput below three pairs, and where a
    value is NaN or infinite.
    """
    from scipy.stats import permutation_test, rankdata

    n = len(a)
    if n != len(b) or n < 3:
        raise BadInput(f"a rank correlation needs two samples of the same three values or more: {n} and {len(b)} given")
    if not np.isfinite([*a, *b]).all():
        raise BadInput("a rank correlation needs finite values: one of those given is NaN or infinite, leave its pair out")
    x, y = (rankdata(v) - (n + 1) / 2 for v in (a, b))
    if not (x.any() and y.any()):
        return None
    rho = float(x @ y / sqrt((x @ x) * (y @ y)))
    test = permutation_test(
        (x,),
        lambda u, axis: (u * y).sum(axis),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=EVERY,
        rng=np.random.default_rng(0),
    )
    most = 1 - 6 / (n * (n**2 - 1))
    near = min(max(rho, -most), most)
    half = NormalDist().inv_cdf(0.975) * sqrt((1 + near**2 / 2) / (n - 3)) if n > 3 else inf
    low, high = tanh(atanh(near) - half), tanh(atanh(near) + half)
    return Ranks(rho, min(low, rho), max(high, rho), float(test.pvalue))


def concordance(score: PerSample, outcome: Outcomes) -> float | None:
    """The chance that a sample whose outcome is true has a higher score than one whose outcome is false, ties counting half: the area under
    the ROC curve, Mann and Whitney 1947. None where all outcomes are the same."""
    from scipy.stats import rankdata

    true = int(outcome.sum())
    if true in (0, len(outcome)):
        return None
    ranks = rankdata(score.detach().cpu().numpy())[outcome.cpu().numpy()]
    return float((ranks.sum() - true * (true + 1) / 2) / (true * (len(outcome) - true)))


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (over n - 1); one value has no deviation: nan."""
    if not values:
        raise BadInput("a mean needs at least one value")
    return fmean(values), stdev(values) if len(values) > 1 else float("nan")
