"""What a count of test images says: an interval, a paired test, mean and spread over seeds."""

from collections.abc import Sequence
from math import gcd
from statistics import fmean, stdev

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from kdiga.errors import BadInput


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


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (over n - 1); one value has no deviation: nan."""
    if not values:
        raise BadInput("a mean needs at least one value")
    return fmean(values), stdev(values) if len(values) > 1 else float("nan")
