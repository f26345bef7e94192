"""What a report shows beyond the rows: the only part of it that runs models. Images and models must be on one device."""

from collections.abc import Iterator, Mapping, Sequence
from math import inf

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from kdiga.attacks.guard import guarded
from kdiga.attacks.pgd import pgd20
from kdiga.errors import BadInput
from kdiga.losses import cross_entropy, input_gradient
from kdiga.report.pictures import Pictures
from kdiga.types import Images, Labels, Threat

FACTORS = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)


def pictures(models: Mapping[str, nn.Module], x: Images, y: Labels, threat: Threat, *, count: int = 12, seed: int = 0) -> Pictures:
    """`count` images, their classes as even as possible, and what each model does with them."""
    rows = pick(y, count, seed)
    x, y = x[rows], y[rows]
    adversarial, gradients, before, after = {}, {}, {}, {}
    for name, model in models.items():
        with guarded(model, x.device):
            u = x.detach().clone().requires_grad_()
            gradients[name] = input_gradient(cross_entropy(model(u), y), u).cpu()
            torch.manual_seed(seed)
            attacked = pgd20(model, x, y, threat)
            before[name], after[name] = _predict(model, x).cpu(), _predict(model, attacked).cpu()
            adversarial[name] = attacked.cpu()
    return Pictures(
        x=x.cpu(),
        y=y.cpu(),
        names=tuple(models),
        adversarial=adversarial,
        gradients=gradients,
        clean_prediction=before,
        adversarial_prediction=after,
    )


def pick(y: Labels, count: int, seed: int) -> Int64[Tensor, "m"]:
    """Positions of `count` samples drawn class by class in turn, in the order of their classes: a draw, not a choice."""
    labels = y.cpu()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    # rank: how many samples of the same class were drawn before; every class gives its first sample before any gives its second
    by_class, size = torch.argsort(labels[order], stable=True), torch.bincount(labels)
    rank = torch.empty_like(order)
    rank[by_class] = torch.arange(len(labels)) - torch.repeat_interleave(size.cumsum(0) - size, size)
    chosen = order[torch.argsort(rank, stable=True)[:count]]
    return chosen[torch.argsort(labels[chosen], stable=True)].to(y.device)


def sweep(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: Threat,
    *,
    factors: Sequence[float] = FACTORS,
    batch_size: int = 256,
    seed: int = 0,
) -> list[tuple[float, float]]:
    """(eps, robust accuracy under PGD-20) for eps = factor * threat.eps, doubled after the last factor, until no image is classified
    right or eps spans the whole range of an image. A curve that does not reach zero is a sign of masked gradients.

    Balls are nested, so an image broken at one eps counts as broken at every larger one and is not attacked again.
    """
    if not len(y):
        raise BadInput("a sweep over eps needs at least one image")
    points = []
    with guarded(model, x.device):
        torch.manual_seed(seed)
        alive = torch.cat([_predict(model, u) == v for u, v in _batches(x, y, batch_size)])
        points.append((0.0, alive.float().mean().item()))
        for eps in _radii(threat, factors, x[0].numel()):
            if not alive.any():
                break
            rows, ball = alive.nonzero()[:, 0], Threat(norm=threat.norm, eps=eps)
            batches = _batches(x[rows], y[rows], batch_size)
            alive[rows] = torch.cat([_predict(model, pgd20(model, u, v, ball)) == v for u, v in batches])
            points.append((eps, alive.float().mean().item()))
    return points


def _radii(threat: Threat, factors: Sequence[float], size: int) -> Iterator[float]:
    widest, last = 1.0 if threat.norm == inf else size**0.5, 0.0
    for factor in sorted(factors):
        if last < factor * threat.eps < widest:
            yield (last := factor * threat.eps)
    while 0 < last < widest:
        yield (last := min(2 * last, widest))


def _predict(model: nn.Module, x: Images) -> Labels:
    with torch.no_grad():
        return model(x).argmax(1)  # type: ignore[no-any-return]


def _batches(x: Images, y: Labels, size: int) -> Iterator[tuple[Images, Labels]]:
    yield from zip(x.split(size), y.split(size), strict=True)
