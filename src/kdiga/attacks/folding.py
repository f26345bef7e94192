"""A copy of a model for evaluation mode alone, with each BatchNorm folded into the convolution before it."""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdiga.types import Images, Logits


def folded(model: nn.Module, x: Images) -> nn.Module:
    """The copy, or the model itself where nothing can be folded, it cannot be copied, or the copy's logits for x are not the model's."""
    try:
        pairs, z = _pairs(model, x)
        if not pairs:
            return model
        fast: Any = copy.deepcopy(model)
        for bn, conv in pairs.items():
            fast.set_submodule(conv, fuse_conv_bn_eval(fast.get_submodule(conv), fast.get_submodule(bn)))
            fast.set_submodule(bn, nn.Identity())
        fast.requires_grad_(False)
        with torch.no_grad():
            found: nn.Module = fast if _same(fast(x), z) else model
        return found
    except (
        RuntimeError,
        TypeError,
        AttributeError,
        ValueError,
    ):  # locks, pruned weights: what was not made to be copied or replaced
        return model


def _pairs(model: nn.Module, x: Images) -> tuple[dict[str, str], Logits]:
    """Which BatchNorm follows which convolution, seen from a forward: the one's input is the other's output, untouched, and both are
    called once. Also the logits of x."""
    convolved: dict[int, tuple[str, Tensor, int]] = {}
    pairs: dict[str, str] = {}
    calls: Counter[str] = Counter()
    hooks = []

    def noting(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] += 1
            if type(module) is nn.Conv2d:
                convolved[id(output)] = name, output, output._version
            elif inputs and (seen := convolved.get(id(inputs[0]))) and seen[2] == inputs[0]._version:
                pairs[name] = seen[0]

        return note

    for name, module in model.named_modules():
        conv = type(module) is nn.Conv2d and not module._forward_pre_hooks and not module._forward_hooks
        if conv or (type(module) is nn.BatchNorm2d and module.track_running_stats):
            hooks.append(module.register_forward_hook(noting(name)))
    try:
        with torch.no_grad():
            z = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return {bn: conv for bn, conv in pairs.items() if calls[bn] == calls[conv] == 1}, z


def _same(a: Logits, b: Logits) -> bool:
    """Equal up to a thousandth of how far a logit usually is from the others of its row; a class masked by -1e9 or -inf is no measure of that."""
    usual = b.isfinite()
    if not torch.equal(usual, a.isfinite()) or not torch.equal(a[~usual], b[~usual]):
        return False
    off = [(z - z.median(1, keepdim=True).values).where(usual, 0) for z in (a, b)]
    apart = off[1].abs()
    scale = apart[apart > 0].median() if (apart > 0).any() else apart.sum()
    return bool(((off[0] - off[1]).abs() <= 1e-3 * scale + 1e-5 * apart).all())
