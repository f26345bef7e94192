"""The activations that are understood: those that rise everywhere, and those that fall and then rise."""

from collections.abc import Callable
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdiga.bounds.kinds import Bend, Kind
from kdiga.errors import BadInput

# Where the activations that are not monotone are lowest. Those that are not here rise everywhere.
LOWEST: dict[Callable[..., Any], float] = {
    F.gelu: -0.7517915246935645,
    F.silu: -1.2784645427610738,
    F.mish: -1.1924312145154952,
    F.hardswish: -1.5,
}
RISING: tuple[Callable[..., Any], ...] = (
    F.relu,
    torch.relu,
    Tensor.relu,
    F.relu6,
    F.hardtanh,
    F.leaky_relu,
    F.elu,
    torch.tanh,
    Tensor.tanh,
    torch.sigmoid,
    Tensor.sigmoid,
)
LEAKS = (F.leaky_relu, F.elu)  # which fall below 0 where their slope there is negative


def _bend(function: Callable[..., Any]) -> Callable[..., Kind]:
    def activation(x: Tensor, *rest: Any, inplace: bool = False, **more: Any) -> Kind:
        if inplace or "out" in more or (rest and rest[-1] is True):
            raise BadInput(f"bounds do not know steps in place: {function.__name__} is one")
        if more.get("approximate", "none") != "none":
            raise BadInput("bounds know the exact gelu only, not its approximation by tanh")
        if function in LEAKS and any(not isinstance(v, bool) and v < 0 for v in (*rest, *more.values())):
            raise BadInput(f"bounds know {function.__name__} with a slope of at least 0 only")
        return Bend(lambda u: function(u, *rest, **more), LOWEST.get(function, -inf))

    return activation


ACTIVATIONS: dict[Any, Callable[..., Kind]] = {function: _bend(function) for function in (*RISING, *LOWEST)}
