"""What the members of AutoAttack share: a sample leaves a search once it is broken; few that are left are aimed at several classes at once."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from kdiga.types import Images, Labels, Logits, Outcomes

S = TypeVar("S")
Runs = Int64[Tensor, "r"]  # one whole number for each sample and class that it is aimed at
Points = Float[Tensor, "r c h w"]
TARGETS = 9  # the best wrong classes that are tried
VALUES = 2**17  # pixel values that a batch may grow to where it has several runs of a sample, and that a part has on a CPU

Search = Callable[[Images, Labels, Runs, Runs], tuple[Images, Outcomes]]  # (x, y, row, target) -> points, broken


def packed(state: S, keep: Outcomes) -> S:
    """A dataclass of tensors with one entry per sample, less those that are not kept. Nothing is moved until an eighth can go."""
    if 8 * int(keep.sum()) > 7 * len(keep):
        return state
    rows = keep.nonzero()[:, 0]
    kept: dict[str, Any] = {f.name: getattr(state, f.name)[rows] for f in fields(state)}  # type: ignore[arg-type]
    return replace(state, **kept)  # type: ignore[type-var]


def each_target(search: Search, model: nn.Module, x: Images, y: Labels) -> Images:
    """`search` aimed at the min(9, k - 1) best wrong classes of k, one after another, for the samples that are left.

    A run is one sample aimed at one class; `search` is given the sample (`row` of x) and the class of each. Where few samples are left
    a batch holds their runs at several classes, and what breaks one run of a sample ends all of them.
    """
    with torch.no_grad():
        z = model(x).scatter(1, y[:, None], torch.inf)
        targets = z.argsort(1, descending=True)[:, 1 : TARGETS + 1]
    found, left, at = x.clone(), torch.arange(len(x), device=x.device), 0
    while at < targets.shape[1] and len(left):
        aimed = targets[left, at : at + max(1, max(x.numel(), VALUES) // (len(left) * x[0].numel()))]
        row = torch.arange(len(left), device=x.device).repeat_interleave(aimed.shape[1])
        points, broken = search(x[left], y[left], row, aimed.flatten())
        found[left[broken]] = points[broken]
        left, at = left[~broken], at + aimed.shape[1]
    return found


def first_of(row: Runs, hit: Bool[Tensor, "r"], rows: int) -> Int64[Tensor, "hits"]:
    """For each row with a hit the first of its runs that hit: an assignment to the rows then names none twice."""
    place = hit.nonzero()[:, 0]
    first = torch.full((rows,), len(row), device=row.device).scatter_reduce(0, row[place], place, "amin")
    return first[first < len(row)]


def right(z: Logits, y: Labels) -> Outcomes:
    """Classified right: the label's logit is the first of the largest, and none is NaN."""
    return (z.argmax(1) == y) & ~z.isnan().any(1)
