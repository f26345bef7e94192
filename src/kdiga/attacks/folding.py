"""A copy of a model for evaluation mode alone, with each BatchNorm folded into the convolution before it."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdiga.types import Images


def folded(model: nn.Module, x: Images) -> nn.Module:
    """The copy, or the model itself where nothing can be folded or the copy's logits for x are not the model's.

    Which BatchNorm follows which convolution is seen from a forward: the one's input is the other's output.
    """
    convolved: dict[int, tuple[str, Tensor]] = {}
    pairs: dict[str, str] = {}
    hooks = []

    def note(name: str, module: nn.Module) -> None:
        def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if type(module) is nn.Conv2d:
                convolved[id(output)] = name, output
            elif id(inputs[0]) in convolved:
                pairs[name] = convolved[id(inputs[0])][0]

        hooks.append(module.register_forward_hook(after))

    for name, module in model.named_modules():
        if type(module) is nn.Conv2d or (type(module) is nn.BatchNorm2d and module.track_running_stats):
            note(name, module)
    try:
        with torch.no_grad():
            z = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    if not pairs:
        return model
    fast = copy.deepcopy(model)
    for after, before in pairs.items():
        conv, bn = fast.get_submodule(before), fast.get_submodule(after)
        if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
            fast.set_submodule(before, fuse_conv_bn_eval(conv, bn))
            fast.set_submodule(after, nn.Identity())
    fast.requires_grad_(False)
    with torch.no_grad():
        return fast if torch.allclose(fast(x), z, rtol=1e-3, atol=1e-3 * float(z.abs().max())) else model
