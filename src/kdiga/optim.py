"""Optimiser, learning-rate schedules and weight averaging: functions of the share of training done, so that nothing needs resuming."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import cos, pi

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def learning_rate(schedule: str, peak: float, progress: float, milestones: tuple[float, ...], warmup: float) -> float:
    """The rate at `progress` in [0, 1).

    onecycle: linear from peak / 25 to peak over the first `warmup`, then half a cosine down to zero (Smith and Topin 2018, arXiv 1708.07120).
    multistep: peak times 0.1 for every milestone reached (shares of training; 0.5 and 0.75 are the field's 100 and 150 of 200 epochs).
    """
    if schedule == "multistep":
        return peak * 0.1 ** sum(progress >= m for m in milestones)
    if schedule == "constant":
        return peak
    if progress < warmup:
        return peak * (0.04 + 0.96 * progress / warmup)
    return peak * (1 + cos(pi * (progress - warmup) / (1 - warmup))) / 2


def sgd(model: nn.Module, *, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD with Nesterov momentum; weight decay falls on matrices and kernels only, not on biases and norm parameters."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.SGD([g for g in groups if g["params"]], lr=lr, momentum=momentum, nesterov=momentum > 0)


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights and buffers. Early on it is the plain mean of what it has seen: the decay
    after t updates is min(decay, t / (t + 10)), so that a short run is not an average of its first steps."""

    def mean(old: Sequence[Tensor], new: Sequence[Tensor], updates: Tensor | int) -> None:
        t = int(updates)
        for a, b in zip(old, new, strict=True):
            if a.is_floating_point():
                a.lerp_(b, 1 - min(decay, t / (t + 10)))
            else:
                a.copy_(b)

    return AveragedModel(model, multi_avg_fn=mean, use_buffers=True)


@contextmanager
def perturbed(parameters: Sequence[Tensor], gradients: Sequence[Tensor], gamma: float) -> Iterator[None]:
    """Inside, each parameter w is w + gamma ||w|| g / ||g||: one normalised step up its gradient g (Wu et al. 2020, arXiv 2004.05884,
    adversarial weight perturbation). After, it is exactly what it was."""
    before = [w.detach().clone() for w in parameters]
    try:
        with torch.no_grad():
            for w, g in zip(parameters, gradients, strict=True):
                w.add_(g * (gamma * w.norm() / g.norm().clamp_min(1e-12)))
        yield
    finally:
        with torch.no_grad():
            for w, old in zip(parameters, before, strict=True):
                w.copy_(old)
