"""Models whose loss near an image is known in closed form, and a small smooth net on images so small that a grid sees the whole ball."""

from math import inf

import torch
from torch import Tensor, nn

from kdiga.types import Threat

LINF, L2 = Threat(norm=inf, eps=0.1), Threat(norm=2.0, eps=0.1)


class Quadratic(nn.Module):
    """Two logits; the margin of label 0 is value + gradient . d + d . curvature d / 2 for d = u - at."""

    def __init__(self, value: float, gradient: list[float], curvature: list[list[float]] | None = None, at: float = 0.5) -> None:
        super().__init__()
        n = len(gradient)
        self.at, self.value, self.gradient = at, value, torch.tensor(gradient)
        self.curvature = torch.tensor(curvature) if curvature else torch.zeros(n, n)

    def forward(self, x: Tensor) -> Tensor:
        d = x.flatten(1) - self.at
        q = self.value + d @ self.gradient + (d @ self.curvature * d).sum(1) / 2
        return torch.stack([-q / 2, q / 2], 1)


def diagonal(*entries: float) -> list[list[float]]:
    return torch.diag(torch.tensor(entries)).tolist()


def image(*pixels: float) -> tuple[Tensor, Tensor]:
    """One image of a row of pixels, and label 0."""
    return torch.tensor(pixels).view(1, 1, 1, -1), torch.tensor([0])


class Smooth(nn.Module):
    """Three classes over two pixels, curved enough to matter within a tenth."""

    def __init__(self, seed: int, scale: float = 4.0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.first, self.second = scale * torch.randn(2, 8, generator=g), torch.randn(8, 3, generator=g)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh((x.flatten(1) - 0.5) @ self.first) @ self.second


def grid(x: Tensor, threat: Threat, points: int = 201) -> Tensor:
    """Points of the ball around one two-pixel image, cut to [0, 1]: dense enough for a maximum to three digits."""
    if threat.norm == 2:
        r, angle = torch.meshgrid(torch.linspace(0, threat.eps, points), torch.linspace(0, 6.2832, points), indexing="ij")
        d = torch.stack([r * angle.cos(), r * angle.sin()], 2).view(-1, 2)
    else:
        line = torch.linspace(-threat.eps, threat.eps, points)
        d = torch.cartesian_prod(line, line)
    return (x.flatten() + d).clamp(0, 1).view(-1, 1, 1, 2)  # x is in [0, 1]: this does not leave the ball
