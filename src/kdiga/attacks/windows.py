"""The squares that Square draws, one for each sample, and the shapes that it puts into them under l2."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from kdiga.attacks.packing import Points, Runs
from kdiga.inner import project
from kdiga.types import Threat

Window = tuple[Int64[Tensor, "r h"], Int64[Tensor, "r w"]]  # rows and columns of an image, counted from a square's corner


def signs(x: Points, width: int = 1) -> Float[Tensor, "r c 1 width"]:
    """-1 or 1 for each channel."""
    return torch.randint(2, (*x.shape[:2], 1, width), device=x.device) * 2.0 - 1


def window(x: Points, side: Runs) -> Window:
    """A square of this side for each of x, anywhere in the image."""
    corners = ((torch.rand(len(x), device=x.device) * (n - side + 1)).long().minimum(n - side) for n in x.shape[2:])
    down, across = (torch.arange(n, device=x.device) - at[:, None] for n, at in zip(x.shape[2:], corners, strict=True))
    return down, across


def inside(square: Window, side: Runs) -> Bool[Tensor, "r 1 h w"]:
    """The square's pixels."""
    down, across = ((at >= 0) & (at < side[:, None]) for at in square)
    return (down[:, :, None] & across[:, None])[:, None]


def tiles(x: Points, threat: Threat) -> Points:
    """The start under l2: tiles of a fifth of the image's side, each a bump with a random sign for each channel, at distance eps."""
    side = max(min(x.shape[2:]) // 5, 1)
    d, shapes = torch.zeros_like(x), bumps(x, [side])[0]
    for top in range(x.shape[2] % side // 2, x.shape[2] - side + 1, side):
        for left in range(x.shape[3] % side // 2, x.shape[3] - side + 1, side):
            d[:, :, top : top + side, left : left + side] = shapes[torch.randint(2, (len(x), 1), device=x.device)] * signs(x)
    return reach(x, d, threat)


def reach(x: Points, d: Points, threat: Threat) -> Points:
    """The point at l2 distance eps from x in the direction d, cut to [0, 1]."""
    return project(x + threat.eps * d / d.square().sum((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12), x, threat)


def unit(d: Points) -> Points:
    """Each channel at l2 length 1, or 0 where it is 0."""
    return d / d.square().sum((2, 3), keepdim=True).sqrt().clamp_min(1e-12)


def bumps(x: Points, sides: Sequence[int]) -> Float[Tensor, "k 2 side side"]:
    """For each side two bumps of opposite sign, one above the other and side by side: of norm 1, padded with 0 to the largest side."""
    found = []
    for side in sides:
        both = torch.cat((_bump(side // 2, side), -_bump(side - side // 2, side)))
        both = F.pad(both / both.norm(), (0, max(sides) - side, 0, max(sides) - side))
        found.append(torch.stack((both, both.T)))
    return torch.stack(found).to(x)


def _bump(height: int, width: int) -> Float[Tensor, "height width"]:
    """Concentric rectangles: the k-th around the centre adds 1 / (k + 1)^2; of norm 1."""
    heights = (1 / (1 + torch.arange(max(height, width) // 2 + 1)) ** 2).flip(0).cumsum(0).flip(0)
    down, across = (torch.arange(height) - height // 2).abs(), (torch.arange(width) - width // 2).abs()
    bump: Tensor = heights[torch.maximum(down[:, None], across)]
    return F.normalize(bump.flatten(), dim=0).view(bump.shape)
