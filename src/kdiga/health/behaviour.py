"""Checks of the model itself, without an attack: its gradients, its outputs, its mode."""

from collections.abc import Mapping
from math import inf

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from kdiga.health.flag import FEW, POINT, Flag, unchecked
from kdiga.inner import dual_norm
from kdiga.losses import cross_entropy, input_gradient, log_odds
from kdiga.types import Images, Labels, Logits, Outcomes, PerSample, Threat

SPREAD = 1e4  # largest slope over the median one: a trained network's differ by a factor of ten or a hundred
SAME = 1e-4  # of the logits' scale: a GPU's sums in another order differ by less
ALIGNED = 0.9  # cosine; 1 in exact arithmetic, so that what is below is rounding
UNIT = 2.0**-23  # spacing of float32 numbers near 1


def typical(z: Logits) -> PerSample:
    """How far a row's logits are from their median, at the largest of those that are not masked away (by -1e9 or -inf, beyond 1000 of the
    median distance)."""
    apart = (z - z.nanmedian(1, keepdim=True).values).abs()
    apart = apart.where(apart.isfinite(), 0)
    usual = apart.where(apart > 0, inf).median(1, keepdim=True).values
    return apart.where(apart <= 1000 * usual, 0).amax(1)


def gradients(model: nn.Module, x: Images, y: Labels, threat: Threat) -> Flag:
    """At each image: has the logit margin a slope, has the cross-entropy its direction, and are the slopes of one order of magnitude?

    A slope is none if, followed across the whole ball, it changes the logits by less than float32 resolves. The cross-entropy is
    saturated if its gradient, an exact multiple of the margin's, points elsewhere: p(y) has been rounded to 1.
    """
    u = x.detach().clone().requires_grad_()
    z = model(u)
    if not z.requires_grad:
        return Flag("gradients", True, "the logits cannot be differentiated by the image: no gradient attack says anything", {})
    loss, steep = cross_entropy(z, y), log_odds(z, y)
    g = torch.autograd.grad(loss.sum(), u, retain_graph=True)[0]
    h = input_gradient(steep, u)
    finite = (g.isfinite() & h.isfinite()).flatten(1).all(1)
    slope = dual_norm(h, threat)
    none = finite & (threat.eps * slope <= UNIT * typical(z.detach()))
    saturated = finite & ~none & (_cosine(g, h) < ALIGNED)
    known = slope[finite & ~none]
    spread = float(known.max() / known.median()) if len(known) else 1.0
    return _gradients(~finite, none, saturated, spread)


def _gradients(broken: Outcomes, none: Outcomes, saturated: Outcomes, spread: float) -> Flag:
    n, counts = len(none), [int(part.sum()) for part in (broken, none, saturated)]
    said = f"of {n} images {counts[0]} have a gradient that is not a number, {counts[1]} none, {counts[2]} one lost to a saturated loss"
    raised = sum(counts) >= max(FEW, POINT * n) or spread > SPREAD
    if counts[0] + counts[1] >= max(FEW, POINT * n):
        said += ": gradient attacks cannot work there, believe only what needs no gradient or one of a smooth surrogate (BPDA)"
    elif raised and spread <= SPREAD:
        said += ": FGSM and PGD overstate robustness there; APGD-T, whose loss is of logit differences, does not"
    said += f"; the steepest slope is {spread:.3g} times the median"
    numbers = {"images": n, "not_finite": counts[0], "none": counts[1], "saturated": counts[2], "spread": spread}
    return Flag("gradients", raised, said, {k: float(v) for k, v in numbers.items()})


def _cosine(a: Tensor, b: Tensor) -> PerSample:
    """In float64 and after scaling, as float32 gradients may be as small as 1e-38."""
    a, b = (v.double().flatten(1) for v in (a, b))
    a, b = (v / v.abs().amax(1, keepdim=True).clamp_min(1e-300) for v in (a, b))
    return torch.nn.functional.cosine_similarity(a, b)


def probabilities(z: Logits) -> Flag:
    """Every row in [0, 1] with sum 1: cross-entropy of such an output has a softmax too many, and its gradient all but vanishes."""
    off = float((z.sum(1) - 1).abs().max())
    raised = off < 1e-3 and float(z.min()) >= 0
    said = (
        "every output is a probability vector: return logits, for a second softmax in the loss hides the gradient from every attack"
        if raised
        else f"outputs from {float(z.min()):.3g} to {float(z.max()):.3g}: logits"
    )
    return Flag("probabilities", raised, said, {"largest_distance_of_sum_from_1": off})


def randomness(first: Logits, second: Logits) -> Flag:
    """Two forward passes of the same images."""
    change = float(torch.where(first == second, 0.0, first - second).abs().max())
    scale = float(typical(first).median())
    flips = int((first.argmax(1) != second.argmax(1)).sum())
    raised = not change <= SAME * max(scale, UNIT)
    said = f"two passes over {len(first)} images differ by at most {change:.3g} in a logit, {flips} change class"
    if raised:
        said += ": the model is random, and an attack must average over the randomness (EoT) before its failure means anything"
    return Flag("randomness", raised, said, {"largest_change": change, "classes_changed": float(flips)})


def training_mode(model: nn.Module) -> Flag:
    """Dropout and BatchNorm layers in training mode, before anything of ours sets the mode."""
    active = [type(m).__name__ for m in model.modules() if m.training and (isinstance(m, _BatchNorm | _DropoutNd) or _drops(m))]
    said = "no layer that behaves differently in training was in training mode"
    if active:
        kinds = " and ".join(sorted(set(active)))
        said = (
            f"{len(active)} layers ({kinds}) were in training mode when the model was handed over: measured is the evaluation mode"
        )
    return Flag("training-mode", bool(active), said, {"layers": float(len(active))})


def _drops(m: nn.Module) -> bool:
    return "drop" in type(m).__name__.lower()  # timm's DropPath and DropBlock


def reach(settings: Mapping[str, tuple[int, float]]) -> Flag:
    """`settings`: (steps, step size as a share of eps) of each iterative attack; 2 eps is the way across the ball."""
    if not settings:
        return unchecked("reach", "no iterative attack with a fixed step ran")
    ways = {name: steps * step for name, (steps, step) in settings.items()}
    short = [name for name, way in ways.items() if way < 2]
    least = min(ways, key=lambda name: ways[name])
    said = f"the shortest way is {least}'s, {ways[least]:g} eps of the 2 eps across"
    if short:
        said += (
            f": {', '.join(short)} cannot reach every point of the ball and overstate{'s' if len(short) == 1 else ''} robustness"
        )
    return Flag("reach", bool(short), said, {"shortest_way_in_eps": ways[least]})
