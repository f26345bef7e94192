"""From a spec such as `wrn-28-10?act=silu` to a network with fresh weights."""

import re
from collections.abc import Callable

from torch import nn

from kdiga.errors import BadInput
from kdiga.models.classifier import Classifier
from kdiga.models.cnn import cnn
from kdiga.models.info import ModelInfo
from kdiga.models.mobilenet import mobilenet_v2
from kdiga.models.preact import preact_resnet18
from kdiga.models.resnet import resnet18
from kdiga.models.vit import vit_tiny
from kdiga.models.wrn import wide_resnet
from kdiga.models.zoo import timm_model, torchvision_model
from kdiga.options import accepted, choices, convert

Builder = Callable[..., nn.Module]  # (shape, classes, *, act, options) -> a network that takes normalised images

# By the form of the name: a capital letter is a number, NAME any text. They are the builder's options without a default.
MODELS: dict[str, Builder] = {
    "cnn": cnn,
    "resnet-18": resnet18,
    "preact-resnet-18": preact_resnet18,
    "wrn-D-W": wide_resnet,
    "mobilenet-v2": mobilenet_v2,
    "vit-tiny": vit_tiny,
    "timm:NAME": timm_model,
    "torchvision:NAME": torchvision_model,
}
LARGEST = 4096  # of a depth, width, patch ...: a spec may come from a stranger's file, and must not exhaust the memory


def build(info: ModelInfo) -> Classifier:
    """A classifier with fresh weights, drawn from PyTorch's global generator, in training mode.

    Raises BadInput for an unknown name, an unknown option (the accepted ones are listed) or a value of the wrong type.
    """
    return Classifier(info, network(info.spec, info.shape, info.classes))


def network(spec: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """What a Classifier wraps. Raises as `build` does."""
    name, text = split(spec)
    builder, in_name = find(name)
    options = convert(builder, text, hidden=in_name) | convert(builder, in_name)
    for option, value in options.items():
        if type(value) is int and not 1 <= value <= LARGEST:
            raise BadInput(f"{spec}: {option} is {value}, use 1 to {LARGEST}")
    return builder(shape, classes, **options)


def split(spec: str) -> tuple[str, dict[str, str]]:
    """`name?a=1&b=2` -> the name and the options as text. The first `?` separates them."""
    name, mark, query = spec.partition("?")
    options: dict[str, str] = {}
    for part in query.split("&") if mark else []:
        option, sign, value = part.partition("=")
        if not sign or not option or option in options:
            raise BadInput(f"'{spec}': '{part}' is not one new option=value: write {name}?option=value&other=value")
        options[option] = value
    return name, options


def join(name: str, options: dict[str, str]) -> str:
    """The inverse of `split`."""
    return name + ("?" + "&".join(f"{k}={v}" for k, v in options.items()) if options else "")


def find(name: str) -> tuple[Builder, dict[str, str]]:
    """The builder whose form a name has, and the options that are written in the name. Raises BadInput listing the forms."""
    for form, builder in MODELS.items():
        if match := re.fullmatch(re.sub(r"\b[A-Z]\b", r"(\\d+)", form).replace("NAME", "(.+)"), name):
            required = [p.name for p in accepted(builder).values() if p.default is p.empty]
            return builder, dict(zip(required, match.groups(), strict=True))
    raise unknown(name)


def unknown(name: str) -> BadInput:
    """The error for a name that is none of MODELS, with the closest one."""
    return BadInput(f"unknown model '{name}': {choices(name, MODELS)}, or the path of a run folder or checkpoint")


def is_name(name: str) -> bool:
    """Whether a name has the form of one of MODELS."""
    try:
        return bool(find(name))
    except BadInput:
        return False
