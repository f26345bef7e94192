"""Certified margins by bound propagation, for l-inf threats: no attack, no chance, no training of its own.

    margin(x) = min_{j != y} lower bound over u in ball(x), u in [0, 1], of z_y(u) - z_j(u)

Above 0 it is a proof: no image of the ball is classified otherwise. At or below 0 it says nothing. `ibp-margin` sends intervals through
the network (Gowal et al. 2018, arXiv 1810.12715), `crown-ibp-margin` goes back from the margin to the image with every ReLU between two lines
whose ends IBP has found (Zhang et al. 2020, arXiv 1906.06316). Both are computed in float64 without directed rounding, for the network with
exactly these weights: sound up to the rounding of float64, and of the float32 in which the network is run.

Which layers: see `kdiga.bounds`; CROWN-IBP needs activations that are all ReLU and no max pooling. On networks that were not trained for it
(`kdiga teach --objective ibp`) both are far below 0 at any eps of interest, and say so.
"""

from copy import deepcopy
from math import inf

import torch
from torch import nn

from kdiga.attacks.guard import check_range
from kdiga.bounds import box, intervals, margins, record
from kdiga.types import Images, Labels, PerSample, Threat

AT_ONCE = 160  # margins that go back through the network together


def ibp_margin(model: nn.Module, x: Images, y: Labels, threat: Threat) -> PerSample:
    """Lower bound of the margin over the ball by interval propagation, in logits; above 0 certifies; Gowal et al. 2018, arXiv 1810.12715."""
    return _least(model, x, y, threat, relax=False)


def crown_ibp_margin(model: nn.Module, x: Images, y: Labels, threat: Threat) -> PerSample:
    """Lower bound of the margin over the ball by CROWN-IBP, in logits; above 0 certifies; ReLU networks only; Zhang et al. 2020, arXiv 1906.06316."""
    return _least(model, x, y, threat, relax=True)


def _least(model: nn.Module, x: Images, y: Labels, threat: Threat, *, relax: bool) -> PerSample:
    if not len(x):
        return x.new_empty(0)
    check_range(x)
    found = []
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        exact = deepcopy(model).eval().requires_grad_(False).double()
        images, y = x.detach().clone().double(), y.clone()
        steps, z = record(exact, images[:1])
        size = max(1, AT_ONCE // z.shape[1])
        for u, label in zip(images.split(size), y.split(size), strict=True):
            bound = margins(steps, intervals(steps, box(u, threat)), label, relax=relax)
            found.append(bound.scatter(1, label[:, None], inf).amin(1))
    return torch.cat(found).to(x.dtype)
