"""What a data set is: two splits of uint8 images with labels; and how a validation set is carved off one."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from kdiga.errors import BadInput
from kdiga.types import Images


@dataclass(frozen=True, eq=False)
class Split:
    """Images `x` as uint8 (a quarter of the memory of float32) and their labels `y`; both on one device."""

    x: UInt8[Tensor, "n c h w"]
    y: Int64[Tensor, "n"]

    def __len__(self) -> int:
        return len(self.y)

    def images(self, rows: slice | Tensor | None = None) -> Images:
        """The images at `rows` (all by default) as float32 in [0, 1], on the split's device; `rows` may lie on another one."""
        chosen = self.x[rows.to(self.x.device) if isinstance(rows, Tensor) else rows or slice(None)]
        return chosen.float().div_(255)

    def to(self, device: torch.device | str) -> "Split":
        """The same split on `device`."""
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split of images of one shape.

    `classes` holds the names, in label order. `crop` (zero padding of the random crop in pixels, 0 for none) and `flip` say
    how its training images are usually augmented.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    crop: int
    flip: bool

    def __post_init__(self) -> None:
        if self.train.x.shape[1:] != self.test.x.shape[1:]:
            here, there = (tuple(split.x.shape[1:]) for split in (self.train, self.test))
            raise BadInput(
                f"{self.name}: training images have shape {here}, test images {there}: channels, height, width must agree"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        c, h, w = self.train.x.shape[1:]
        return c, h, w

    @property
    def mean(self) -> tuple[float, ...]:
        """Each channel's mean over the training images in [0, 1]."""
        return tuple(self._moments()[0].tolist())

    @property
    def std(self) -> tuple[float, ...]:
        """Each channel's standard deviation over the training images in [0, 1]; 1 for a constant channel, as one divides by it."""
        std = self._moments()[1]
        return tuple(torch.where(std > 0, std, 1).tolist())

    def _moments(self) -> tuple[Tensor, Tensor]:
        # From counts of the 256 values: exact, and no float copy of the images.
        x = self.train.x
        counts = torch.stack([torch.bincount(x[:, k].flatten(), minlength=256) for k in range(x.shape[1])]).cpu().double()
        value, share = torch.arange(256, dtype=torch.float64) / 255, counts / counts.sum(1, keepdim=True)
        mean = share @ value
        return mean, (share * (value - mean[:, None]) ** 2).sum(1).sqrt()


def checked(x: UInt8[Tensor, "n c h w"], y: Int64[Tensor, "m"], classes: int, where: Path | str) -> Split:
    """The split, or BadInput naming `where`: lengths differ, nothing inside, or a label outside 0 .. classes - 1."""
    if len(x) != len(y):
        raise BadInput(f"{where}: {len(x)} images but {len(y)} labels")
    if x.numel() == 0:
        raise BadInput(f"{where} holds no images")
    outside = y[(y < 0) | (y >= classes)]
    if len(outside):
        raise BadInput(f"{where}: label {int(outside[0])} is outside 0 .. {classes - 1}")
    return Split(x, y)


def sample(split: Split, n: int) -> Split:
    """n of the images, a fixed choice in which each class has its share; all of them if there are no more."""
    return carve(split, n, seed=0)[1] if n < len(split) else split


def carve(split: Split, n: int, seed: int) -> tuple[Split, Split]:
    """(the rest, n images to validate on): each class gives its share of n, rounded by largest remainder; both keep the old order.

    The same split, n and seed give the same images on every machine. Raises BadInput unless 0 <= n < len(split).
    """
    if not 0 <= n < len(split):
        raise BadInput(f"cannot set {n} images aside out of {len(split)}: use 0 to {len(split) - 1}")
    y = split.y.cpu().numpy()
    total = np.bincount(y)
    quota, remainder = np.divmod(total * n, len(y))
    quota[np.argsort(-remainder, kind="stable")[: n - quota.sum()]] += 1
    # numpy has frozen this generator's stream, so that a held-out set stays the same in later versions (its NEP 19).
    order = np.random.RandomState(seed).permutation(len(y))
    chosen = np.zeros(len(y), dtype=bool)
    for k, size in enumerate(quota):
        chosen[order[y[order] == k][:size]] = True
    rest, aside = (torch.from_numpy(mask.nonzero()[0]).to(split.y.device) for mask in (~chosen, chosen))
    return Split(split.x[rest], split.y[rest]), Split(split.x[aside], split.y[aside])
