"""For each torch function that is understood, the step that it is, given the function's own arguments."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdiga.bounds.activations import ACTIVATIONS
from kdiga.bounds.kinds import Affine, Bend, Constant, Kind, Map, Same
from kdiga.errors import BadInput


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Kind:
    return Affine(lambda u: F.linear(u, weight, bias), lambda r: F.linear(r, weight.abs()))


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Kind:
    if isinstance(padding, str):
        raise BadInput(f"bounds do not know padding '{padding}': write it as a number")
    rest = (stride, padding, dilation, groups)
    return Affine(lambda u: F.conv2d(u, weight, bias, *rest), lambda r: F.conv2d(r, weight.abs(), None, *rest))


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Kind:
    """In training mode the statistics are those of the batch that was recorded, as constants of the box (Shi et al. 2021, arXiv 2103.17245)."""
    if training or running_mean is None or running_var is None:
        dims = [0, *range(2, x.ndim)]
        running_mean, running_var = x.mean(dims), x.var(dims, correction=0)
    scale = (running_var + eps).rsqrt() if weight is None else weight * (running_var + eps).rsqrt()
    shift = -running_mean * scale if bias is None else bias - running_mean * scale
    shape = (1, -1, *(1 for _ in range(x.ndim - 2)))
    scale, shift = scale.view(shape), shift.view(shape)
    return Affine(lambda u: u * scale + shift, lambda r: r * scale.abs())


def mean(x: Tensor, dim: Any = None, keepdim: bool = False) -> Kind:
    dims = [d % x.ndim for d in ([dim] if isinstance(dim, int) else dim or [0])]  # no dim, or (): all of them
    if 0 in dims:
        raise BadInput("bounds are per image: a mean over the batch is not")
    return _pooling(lambda u: u.mean(dims, keepdim))


def average_pool(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Kind:
    if divisor_override is not None and divisor_override < 0:
        raise BadInput("bounds know average pooling with a divisor above 0 only: avg_pool2d has a divisor_override below it")
    rest = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _pooling(lambda u: F.avg_pool2d(u, *rest))


def adaptive_pool(x: Tensor, output_size: Any) -> Kind:
    return _pooling(lambda u: F.adaptive_avg_pool2d(u, output_size))


def max_pool(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Kind:
    if return_indices:
        raise BadInput("bounds know max pooling without its indices only")
    return Bend(lambda u: F.max_pool2d(u, kernel_size, stride, padding, dilation, ceil_mode))


def flatten(x: Tensor, *shape: Any, **named: Any) -> Kind:
    return _pooling(lambda u: u.flatten(1))  # that the function did the same, `record` checks by the shape


def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Kind:
    if training or inplace:
        raise BadInput("bounds know dropout in evaluation mode only, and not in place")
    return Same()


def same(x: Tensor) -> Kind:
    return Same()


def add(x: Tensor, other: Constant) -> Kind:
    return Affine(lambda u: u + other, lambda r: r)


def subtract(x: Tensor, other: Constant) -> Kind:
    return Affine(lambda u: u - other, lambda r: r)


def subtract_from(x: Tensor, other: Constant) -> Kind:
    return Affine(lambda u: other - u, lambda r: r)


def multiply(x: Tensor, other: Constant) -> Kind:
    return Affine(lambda u: u * other, lambda r: r * _size(other))


def divide(x: Tensor, other: Constant) -> Kind:
    return Affine(lambda u: u / other, lambda r: r / _size(other))


def _size(c: Constant) -> Constant:
    return c.abs() if isinstance(c, Tensor) else abs(c)


def _pooling(f: Map) -> Kind:
    """A linear map without negative weights."""
    return Affine(f, f)


STEPS: dict[Any, Callable[..., Kind]] = {
    **ACTIVATIONS,
    F.linear: linear,
    torch.conv2d: conv2d,
    F.batch_norm: batch_norm,
    torch.mean: mean,
    Tensor.mean: mean,
    F.avg_pool2d: average_pool,
    F.adaptive_avg_pool2d: adaptive_pool,
    F.max_pool2d: max_pool,
    torch.flatten: flatten,
    Tensor.flatten: flatten,
    Tensor.view: flatten,
    Tensor.reshape: flatten,
    F.dropout: dropout,
    Tensor.detach: same,
    Tensor.contiguous: same,
    torch.add: add,
    Tensor.add: add,
    torch.sub: subtract,
    Tensor.sub: subtract,
    Tensor.__rsub__: subtract_from,
    torch.mul: multiply,
    Tensor.mul: multiply,
    torch.div: divide,
    Tensor.div: divide,
}
RESHAPES = {torch.flatten, Tensor.flatten, Tensor.view, Tensor.reshape}
EITHER_WAY = {torch.add, Tensor.add, torch.mul, Tensor.mul}  # a constant may come first
