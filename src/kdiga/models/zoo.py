"""Networks from timm and torchvision, made differentiable twice."""

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from kdiga.errors import BadInput
from kdiga.models.activation import swap_activations
from kdiga.models.info import sizes
from kdiga.models.second_order import allow_double_backward

# Both would return two outputs in training mode, and warn about their default initialisation.
PLAIN = {"aux_logits": False, "init_weights": False}
TORCHVISION_OPTIONS = {"googlenet": PLAIN, "inception_v3": PLAIN}


def timm_model(
    shape: tuple[int, int, int],
    classes: int,
    *,
    name: str,
    act: str | None = None,
    img_size: int | None = None,
    patch_size: int | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """A timm model by its name, such as resnet18, resnet18.a1_in1k or hf-hub:ORG/NAME, with the channels and classes asked for.

    img_size and patch_size go to the models that have them. pretrained: timm's weights, downloaded or from its cache; the head is
    drawn afresh where the number of classes differs. act: see `swap_activations`. Raises BadInput for what timm refuses, in its
    words.
    """
    import timm

    if ":" not in name and not timm.is_model(name.partition(".")[0]):
        raise _unknown("timm", name, timm.list_models())
    given: dict[str, Any] = {k: v for k, v in (("img_size", img_size), ("patch_size", patch_size)) if v is not None}
    try:
        network: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=classes, in_chans=shape[0], **given)
    except Exception as error:  # whatever timm, its downloads or a model's own checks raise
        raise BadInput(f"timm:{name} cannot be built: {_first_line(error)}") from error
    return _ours(network, f"timm:{name}", shape, classes, act)


def timm_normalisation(network: nn.Module, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and std that timm's weights were trained with; their averages where the number of channels is another."""
    cfg: Any = network.pretrained_cfg
    mean, std = tuple(cfg["mean"]), tuple(cfg["std"])
    if len(mean) == channels:
        return mean, std
    return (sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels


def torchvision_model(shape: tuple[int, int, int], classes: int, *, name: str, act: str | None = None) -> nn.Module:
    """A torchvision classifier by its name, for images with three channels, with fresh weights. act: see `swap_activations`."""
    from torchvision import models

    if name not in models.list_models(module=models):
        raise _unknown("torchvision", name, models.list_models(module=models))
    if shape[0] != 3:
        raise BadInput(f"torchvision:{name} takes images with 3 channels, not {shape[0]}: timm's models take any number")
    network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **TORCHVISION_OPTIONS.get(name, {}))
    return _ours(network, f"torchvision:{name}", shape, classes, act)


def _ours(network: nn.Module, what: str, shape: tuple[int, int, int], classes: int, act: str | None) -> nn.Module:
    """The network with its activations swapped and double backward allowed, once it has been seen to take such an image."""
    if act is not None:
        swap_activations(network, act, what)
    allow_double_backward(network)
    image = torch.zeros(1, *shape)
    if image.is_meta:  # only the sizes of its weights are wanted
        return network
    try:
        with torch.no_grad():
            logits = network.eval()(image)
    except Exception as error:  # whatever the network's own checks raise
        hint = " (many of timm's models take ?img_size= and ?patch_size=)" if what.startswith("timm") else ""
        raise BadInput(f"{what} does not take images of {sizes(shape)}: {_first_line(error)}{hint}") from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, classes):
        raise BadInput(f"{what} is not a classifier: it does not return one logit per class")
    return network.train()


def _unknown(library: str, name: str, names: Sequence[str]) -> BadInput:
    close = difflib.get_close_matches(name, names, 3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return BadInput(f"{library} has no model '{name}': {hint}its {len(names)} names are listed by its list_models()")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
