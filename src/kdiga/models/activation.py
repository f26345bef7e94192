"""Activations by name, and their exchange in a network that is not ours."""

from torch import nn

from kdiga.errors import BadInput
from kdiga.options import choices

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky-relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "hardswish": nn.Hardswish,
}
# Class names, because timm has its own GELU, Swish and others. Sigmoid, hard sigmoid, tanh and softmax stay: they are gates.
REPLACED = {cls.__name__ for cls in ACTIVATIONS.values()} | {"PReLU", "RReLU", "SELU", "CELU"}
REPLACED |= {"GELUTanh", "QuickGELU", "Swish", "SwishMe", "MishMe", "HardSwish", "HardSwishMe", "HardMish", "HardMishMe"}


def activation(name: str) -> nn.Module:
    """A new activation module; never in place, because the input of an activation may be needed to differentiate twice."""
    if name not in ACTIVATIONS:
        raise BadInput(f"unknown activation '{name}': {choices(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def swap_activations(network: nn.Module, name: str, what: str) -> None:
    """Put activation `name` in the place of every activation module of the network, in place.

    Replaced: modules of the classes in REPLACED, wherever they are, in squeeze-and-excite blocks too. Not replaced: gates
    (sigmoid, hard sigmoid, tanh, softmax), and activations that the network's code calls as functions: torchvision's DenseNet
    keeps one such ReLU, before its pooling. Raises BadInput naming `what` where nothing can be replaced.
    """
    places = [(parent, key) for parent in network.modules() for key, m in parent._modules.items() if type(m).__name__ in REPLACED]
    if not places:
        raise BadInput(f"{what} has no activation modules, so act={name} cannot be honoured (it may call them as functions)")
    for parent, key in places:
        setattr(parent, key, activation(name))
