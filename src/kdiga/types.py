"""The types everything speaks in: read this first.

Images are float32 in [0, 1], NCHW; normalisation lives inside the model; a model returns logits.
A loss term, an outcome or a measure has one entry per sample; the one mean is taken in the training loop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import inf, isfinite
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from kdiga.errors import BadInput

Images = Float[Tensor, "b c h w"]  # in [0, 1]
Labels = Int64[Tensor, "b"]
Logits = Float[Tensor, "b k"]
PerSample = Float[Tensor, "b"]
Outcomes = Bool[Tensor, "b"]  # one truth value per sample
Terms = dict[str, PerSample]  # weighted loss terms by name; the loss is the sum of their means


@dataclass(frozen=True)
class Batch:
    """Images `x`, labels `y`, and `row`: each sample's position in the training set."""

    x: Images
    y: Labels
    row: Labels


@dataclass(frozen=True, kw_only=True)
class Threat:
    """Perturbations with `norm` (2.0 or inf) at most `eps`, in image units: 8/255, not 8."""

    norm: float
    eps: float

    def __post_init__(self) -> None:
        if self.norm not in (2.0, inf):
            raise BadInput(f"norm {self.norm} is not supported: use linf or l2")
        if not isfinite(self.eps) or self.eps < 0:
            raise BadInput(f"eps must be a number of at least 0, got {self.eps}")
        if self.norm == inf and self.eps > 1:
            raise BadInput(f"eps {self.eps:g} is above 1, the whole range of an image in [0, 1]: did you mean {self.eps:g}/255?")

    @classmethod
    def parse(cls, norm: str, eps: str | float) -> "Threat":
        """`Threat.parse("linf", "8/255")`; eps is a number or a fraction as text."""
        norms = {"linf": inf, "l2": 2.0}
        if norm.lower() not in norms:
            raise BadInput(f"norm '{norm}' is not supported: use linf or l2")
        try:
            value = float(Fraction(eps)) if isinstance(eps, str) and "/" in eps else float(eps)
        except (ValueError, ZeroDivisionError):
            raise BadInput(f"eps '{eps}' is not a number: write 8/255 or 0.031") from None
        return cls(norm=norms[norm.lower()], eps=value)

    def __str__(self) -> str:
        """`linf eps 8/255`, `linf eps 0.1`: a fraction of 255 only where it is the shorter way to write eps."""
        levels = round(self.eps * 255)
        plain = abs(self.eps * 255 - levels) > 1e-6 or self.eps == round(self.eps, 3)
        return f"{'linf' if self.norm == inf else 'l2'} eps {f'{self.eps:g}' if plain else f'{levels}/255'}"


@runtime_checkable
class Objective(Protocol):
    """What training minimises. `teacher` is None for objectives without one; `progress` is the share of training done, in [0, 1)."""

    def __call__(self, student: nn.Module, teacher: nn.Module | None, batch: Batch, progress: float) -> Terms: ...


@runtime_checkable
class Attack(Protocol):
    """Images that should be misclassified. `evaluate` clips them to the threat and recomputes success: an attack is not believed."""

    def __call__(self, model: nn.Module, x: Images, y: Labels, threat: Threat) -> Images: ...


@runtime_checkable
class Measure(Protocol):
    """One number for each sample, of any model; options are keyword-only. Those that compare with a teacher have an option `teacher`, which
    the caller fills in. The model is left as it was: mode, gradients, statistics, random state."""

    def __call__(self, model: nn.Module, x: Images, y: Labels, threat: Threat) -> PerSample: ...


Progress = Callable[[str, int, int], None]  # (what is being done, done so far, out of): called often, must be cheap
