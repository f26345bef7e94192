"""What makes a network of another library differentiable twice, as input-gradient objectives need."""

from typing import Any

from torch import nn


def allow_double_backward(network: nn.Module) -> None:
    """Turn off, in place, what has no second derivative or spoils the first: fused attention and in-place modules.

    The outputs stay the same up to rounding. torch 2.14's fused attention kernels raise on a double backward; its explicit form does not.
    """
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
        if getattr(module, "fused_attn", False):  # timm's switch
            module.fused_attn = False  # type: ignore[assignment]
        if isinstance(module, nn.MultiheadAttention):
            module.register_forward_pre_hook(_explicit, with_kwargs=True)


def _explicit(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Asked for its weights, nn.MultiheadAttention multiplies and normalises step by step."""
    return args, kwargs | {"need_weights": True}
