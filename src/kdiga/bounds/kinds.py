"""What a step of a network can be, as a bound needs it."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from torch import Tensor

Map = Callable[[Tensor], Tensor]
Constant = Tensor | float | int


@dataclass(frozen=True)
class Affine:
    """y = apply(x); `spread` is its linear part with the absolute values of the weights: what a radius becomes."""

    apply: Map
    spread: Map


@dataclass(frozen=True)
class Bend:
    """A function of each entry that falls up to `lowest` and rises from there (or one that rises in every entry: max pooling)."""

    apply: Map
    lowest: float = -inf


@dataclass(frozen=True)
class Sum:
    """The sum of two branches."""


@dataclass(frozen=True)
class Same:
    """The input, unchanged."""


Kind = Affine | Bend | Sum | Same
