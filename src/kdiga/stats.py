"""What a count of test images says: an interval, a paired test, mean and spread over seeds."""

from collections.abc import Sequence
from statistics import fmean, stdev

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


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (over n - 1); one value has no deviation: nan."""
    if not values:
        raise BadInput("a mean needs at least one value")
    return fmean(values), stdev(values) if len(values) > 1 else float("nan")
