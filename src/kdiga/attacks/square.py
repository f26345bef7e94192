"""Andriushchenko et al. 2020, arXiv 1912.00049: Square, random search without gradients (Algorithm 1; 2 for l-inf, 3 for l2).

A query changes a square window, which shrinks as queries are spent, and is kept if it lowers the margin z_y - max z_other.
Windows and signs are drawn for each sample (pyautoattack draws one window for a batch, and never the last row and column); a query that
would leave the image as it is counts and is not asked. Not a call of `inner.maximise`: there is no gradient.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, sqrt

import torch
from torch import Tensor, nn

from kdiga.attacks.packing import VALUES, Points, Runs, packed, right
from kdiga.attacks.windows import bumps, inside, reach, signs, tiles, unit, window
from kdiga.losses import margin
from kdiga.types import Images, Labels, Outcomes, PerSample, Threat

SHARE, HALVED_AFTER = 0.8, (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of the pixels, in the first windows; queries
AHEAD = 8  # queries of one image in one batch, at most

Change = Callable[[Points, Points, Runs], Points]  # (x, best, the query's number) -> the image to ask


@dataclass
class Run:
    """One sample; `row` is its position in the batch, `best` the image with the lowest margin so far, `spent` its queries."""

    x: Images
    y: Labels
    row: Labels
    best: Images
    margin: PerSample
    spent: Labels


def search(model: nn.Module, x: Images, y: Labels, threat: Threat, *, queries: int) -> tuple[Images, Outcomes]:
    """For each of x a misclassified point, if one was met, and whether.

    Few samples do not fill a batch: then several queries of each are asked at once. The first one that is kept makes those after it
    void; they do not count and are drawn anew, so that this is the search that asks one by one.
    """
    best = (x + threat.eps * signs(x, x.shape[3])).clamp(0, 1) if threat.norm == inf else tiles(x, threat)
    z = model(best)
    found, broken = torch.where(right(z, y)[:, None, None, None], x, best), ~right(z, y)
    s = Run(x, y, torch.arange(len(x), device=x.device), best, -margin(z, y), torch.zeros_like(y))
    s, change = packed(s, ~broken), (_flips if threat.norm == inf else _swaps)(x, threat, queries)
    while len(s.x):
        ahead = max(1, min(AHEAD, VALUES // s.x.numel()))
        of = torch.arange(len(s.x), device=x.device).repeat_interleave(ahead)
        turn = torch.arange(ahead, device=x.device).repeat(len(s.x))
        query = s.spent[of] + turn
        u = change(s.x[of], s.best[of], query.clamp_max(queries - 1))
        asked = (u != s.best[of]).flatten(1).any(1) & (query < queries) & ~broken[s.row[of]]
        u, of, turn = u[asked], of[asked], turn[asked]
        z = model(u)
        lead, wrong = -margin(z, s.y[of]), ~right(z, s.y[of])
        kept = (lead < s.margin[of]) | wrong
        first = torch.full_like(s.row, ahead - 1).scatter_reduce(0, of[kept], turn[kept], "amin")
        kept &= turn == first[of]
        s.best, s.margin = s.best.index_copy(0, of[kept], u[kept]), s.margin.index_copy(0, of[kept], lead[kept])
        s.spent = s.spent + first + 1
        wrong &= kept
        found[s.row[of[wrong]]], broken[s.row[of[wrong]]] = u[wrong], True
        s = packed(s, ~broken[s.row] & (s.spent < queries))
    return found, broken


def side(query: int, height: int, width: int) -> int:
    """The window's side at a query, in pixels."""
    share = SHARE / 2 ** bisect_left(HALVED_AFTER, query)
    return min(max(round(sqrt(share * height * width)), 1), height, width)


def _sides(x: Images, queries: int) -> Tensor:
    return torch.tensor([side(query, *x.shape[2:]) for query in range(queries)], device=x.device)


def _flips(x: Images, threat: Threat, queries: int) -> Change:
    sides = _sides(x, queries)

    def flip(x: Points, best: Points, query: Runs) -> Points:
        edge = (x + threat.eps * signs(x)).clamp(0, 1)
        return torch.where(inside(window(x, sides[query]), sides[query]), edge, best)

    return flip


def _swaps(x: Images, threat: Threat, queries: int) -> Change:
    sides = (_sides(x, queries).clamp_min(3) // 2 * 2 + 1).clamp_max(min(x.shape[2:]))
    kinds, kind = sides.unique(return_inverse=True)
    shapes = bumps(x, kinds.tolist())

    def swap(x: Points, best: Points, query: Runs) -> Points:
        side, d = sides[query], best - x
        (down, across), other = window(x, side), window(x, side)
        first, second = inside((down, across), side), inside(other, side)
        unused = (threat.eps**2 - d.square().sum((1, 2, 3), keepdim=True)).clamp_min(0) / d.shape[1]
        budget = (unused + (d * (first | second)).square().sum((2, 3), keepdim=True)).sqrt()
        turned = torch.randint(2, (len(x), 1, 1), device=x.device)
        at = down.clamp_min(0).minimum(side[:, None] - 1)[:, :, None], across.clamp_min(0).minimum(side[:, None] - 1)[:, None]
        bump = shapes[kind[query][:, None, None], turned, at[0], at[1]][:, None]
        new = (signs(x) * bump + unit(d * first)) * first
        return reach(x, torch.where(first, unit(new) * budget, d.masked_fill(second, 0)), threat)

    return swap
