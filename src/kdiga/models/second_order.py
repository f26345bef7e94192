"""What makes a network of another library differentiable twice, as input-gradient objectives need."""

from typing import Any

from torch import Tensor, nn


class HardSigmoid(nn.Module):
    """clamp(x + 3, 0, 6) / 6, as nn.Hardsigmoid, whose backward pass torch 2.14 cannot differentiate."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 3).clamp(0, 6) / 6


def allow_double_backward(network: nn.Module) -> None:
    """Turn off, in place, what has no second derivative (fused attention and hard sigmoids) or spoils the first (in-place modules).

    The outputs stay the same up to rounding.
    """
    for module in list(network.modules()):
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
        if getattr(module, "fused_attn", False):  # timm's switch
            module.fused_attn = False  # type: ignore[assignment]
        if isinstance(module, nn.MultiheadAttention):
            module.register_forward_pre_hook(_explicit, with_kwargs=True)
        for name, child in module.named_children():
            if isinstance(child, nn.Hardsigmoid):
                setattr(module, name, HardSigmoid())


def _explicit(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Asked for its weights, nn.MultiheadAttention multiplies and normalises step by step."""
    return args, kwargs | {"need_weights": True}
