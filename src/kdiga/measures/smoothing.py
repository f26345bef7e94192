"""Cohen et al. 2019, arXiv 1902.02918: randomised smoothing, a certified l2 radius of any network.

    g(x) = argmax_c P[f(x + sigma N(0, 1)) = c]          the smoothed classifier
    c    = the commonest class of f among `n0` noisy copies of x
    p    = a lower bound of P[f(x + sigma N(0, 1)) = c], of confidence 1 - alpha, from `n` fresh copies (Clopper and Pearson)
    R    = sigma Phi^-1(p) if p > 1/2, else g abstains

With probability 1 - alpha over the draws, for each image by itself, g is c everywhere at an l2 distance below R (theorem 1, with
p_B = 1 - p_A). The guarantee is of g, not of f; noise is not clipped to [0, 1]. R is at most sigma Phi^-1(alpha^(1/n)), when all n copies
agree: at the defaults 0.80 (3.20 sigma); the paper's n is 100,000, which allows 0.95 (3.81 sigma). f should have been trained with the
same noise (`--set noise_sd=0.25`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from kdiga.attacks.guard import check_range, guarded
from kdiga.options import Count, Domain, Positive
from kdiga.types import Images, Labels, PerSample, Threat

Level = Annotated[float, Domain(high=0.5, open=True)]


@dataclass(frozen=True, eq=False)
class Certificate:
    """Per image: the smoothed classifier's `prediction`, -1 where it abstains, and the `radius` (l2, image units) within which it holds,
    0 where it abstains."""

    prediction: Labels
    radius: PerSample


def smoothing_radius(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: Threat,
    *,
    sigma: Positive = 0.25,
    n0: Count = 100,
    n: Count = 10_000,
    alpha: Level = 0.001,
) -> PerSample:
    """The certified l2 radius of the smoothed classifier where it predicts the label, 0 where it is wrong or abstains; Cohen et al. 2019, arXiv 1902.02918.

    The threat is not used: the radius is what is found, and it is l2 whatever the threat's norm. An l-inf ball of size eps lies in the l2
    ball of radius eps sqrt(d), d values in an image: read as l-inf, a radius of 0.5 at 28x28 is an eps of 0.018.
    """
    found = certify(model, x, sigma=sigma, n0=n0, n=n, alpha=alpha)
    return torch.where(found.prediction == y, found.radius, 0.0)


def certify(
    model: nn.Module,
    x: Images,
    *,
    sigma: Positive,
    n0: Count = 100,
    n: Count = 10_000,
    alpha: Level = 0.001,
    batch: Count = 1000,
) -> Certificate:
    """Algorithm CERTIFY of the paper. `batch` is how many noisy copies the network sees at once."""
    from scipy.stats import norm

    check_range(x)
    with guarded(model, x.device), torch.no_grad():
        chosen = count(model, x, copies=n0, sigma=sigma, batch=batch).argmax(1)
        agreeing = count(model, x, copies=n, sigma=sigma, batch=batch).gather(1, chosen[:, None])[:, 0]
    low = at_least(agreeing, n, alpha)
    sure = low > 0.5
    radius = sigma * torch.as_tensor(norm.ppf(low.numpy())).to(x)
    sure = sure.to(x.device)
    return Certificate(torch.where(sure, chosen, -1), torch.where(sure, radius, 0.0))


def count(model: nn.Module, x: Images, *, copies: int, sigma: float, batch: int) -> Int64[Tensor, "b k"]:
    """How many of `copies` noisy copies of each image fall into each class; a copy with a NaN among its logits falls into none."""
    counts = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
    for start in range(0, len(x) * copies, batch):
        row = torch.arange(start, min(start + batch, len(x) * copies), device=x.device) // copies
        z = model(x[row] + sigma * torch.randn_like(x[row]))
        if not counts.numel():
            counts = counts.new_zeros(len(x), z.shape[1])
        counts.index_put_((row, z.argmax(1)), (~z.isnan().any(1)).long(), accumulate=True)
    return counts


def at_least(k: Int64[Tensor, "b"], n: int, alpha: float) -> PerSample:
    """The lower end of Clopper and Pearson's one-sided interval (1934): a probability that gives k successes of n or more has at least this
    value with confidence 1 - alpha. float64, on the CPU."""
    from scipy.stats import beta

    successes = k.cpu().numpy()
    return torch.as_tensor(beta.ppf(alpha, successes.clip(1), n - successes + 1)) * (k.cpu() > 0)


def certified_accuracy(radii: PerSample, at: Sequence[float]) -> list[float]:
    """The share of images with a certified radius above each of `at`; at 0, that which the smoothed classifier predicts right."""
    return [(radii > r).double().mean().item() for r in at]


def average_certified_radius(radii: PerSample) -> float:
    """The mean radius over all images, 0 where wrong or abstained: ACR (Zhai et al. 2020, arXiv 2001.02378)."""
    return radii.double().mean().item()
