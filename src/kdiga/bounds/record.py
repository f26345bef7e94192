"""A network as a list of steps, noted while it runs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kdiga.bounds.kinds import Kind, Same, Sum
from kdiga.bounds.steps import EITHER_WAY, RESHAPES, STEPS
from kdiga.errors import BadInput
from kdiga.types import Images, Logits

# What a network may ask of a tensor without computing with it: none of it depends on the values.
LOOKS = {Tensor.__len__, Tensor.dim, Tensor.size, Tensor.numel, Tensor.is_floating_point}
LOOKS |= {getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "requires_grad", "is_cuda", "layout")}
ELEMENTWISE = ("add", "sub", "mul", "div", "__rsub__")


@dataclass(frozen=True)
class Step:
    """One step: what it is, which function of torch it was, and the place of the step that it reads; a sum also reads `other`."""

    kind: Kind
    name: str
    read: int = 0
    other: int = 0


Steps = dict[int, Step]  # by place, in the order in which they are taken; 0 is the images


def record(model: nn.Module, x: Images) -> tuple[Steps, Logits]:
    """The steps from the images to the logits, the last; and the logits of x, with their graph.

    `model` runs once, in the mode that it is in. In evaluation mode the steps do not depend on x and hold for any number of images.
    Raises BadInput naming the first function that the bounds do not know.
    """
    recorder = _Recorder(model, x)
    with recorder:
        z = model(x)
    if id(z) not in recorder.places:
        raise BadInput("the model's logits cannot be traced back to the images: it computes outside torch's functions")
    last = recorder.places[id(z)]
    return {place: step for place, step in recorder.steps.items() if place <= last}, z


class _Recorder(TorchFunctionMode):
    """Sees every torch function that is called. What reads a noted tensor is noted, looks at it without its values, or is refused."""

    def __init__(self, model: nn.Module, x: Images) -> None:
        super().__init__()
        self.steps = {0: Step(Same(), "images")}
        self.places = {id(x): 0}
        self.alive = [x]  # so that no id is used again
        self.own = {id(t) for t in (*model.parameters(), *model.buffers())}
        self.training = any(m.training for m in model.modules())

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        given = list(_tensors((args, kwargs)))
        read = [t for t in given if id(t) in self.places]
        if not read or func in LOOKS:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        if func not in STEPS:
            raise BadInput(f"bounds do not know the step '{name}': docs/certificates.md lists those that they know")
        if any(id(t) not in self.own for t in given if id(t) not in self.places):
            raise BadInput(f"bounds know tensors that come from the images or are the model's own: '{name}' reads another")
        if not args and "input" in kwargs:
            args, kwargs = (kwargs["input"],), {k: v for k, v in kwargs.items() if k != "input"}
        if func in EITHER_WAY and len(read) == 1 and args and args[0] is not read[0]:
            args = (read[0], args[0], *args[2:])
        if not args or args[0] is not read[0] or len(read) > (2 if name == "add" else 1):
            raise BadInput(f"bounds know '{name}' of one tensor that comes from the images and of constants, no other way")
        kind = self._kind(STEPS[func], name, args, kwargs)  # of two branches too: it refuses alpha
        if len(read) == 2:
            kind = Sum()
        out = func(*args, **kwargs)
        for t in read:
            _check_shape(func, name, t, out)
        places = [self.places[id(t)] for t in read]
        if not isinstance(kind, Same):
            self.steps[len(self.steps)] = Step(kind, name, *places)
        self.places[id(out)] = places[0] if isinstance(kind, Same) else len(self.steps) - 1
        self.alive.append(out)
        return out

    def _kind(self, rule: Callable[..., Kind], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Kind:
        try:
            options = signature(rule).bind(*args, **kwargs).arguments
        except TypeError:
            raise BadInput(
                f"bounds do not know '{name}' with these arguments: {', '.join(kwargs) or f'{len(args)} in order'}"
            ) from None
        if name == "batch_norm" and options.get("training") and not self.training:
            raise BadInput("bounds need BatchNorm with running statistics: this one uses the batch's in evaluation mode")
        return rule(*args, **kwargs)


def _check_shape(func: Any, name: str, read: Tensor, out: Tensor) -> None:
    """Raises BadInput where a function has broadcast, cast or mixed images: the bounds would be of something else."""
    if out.dtype != read.dtype:
        raise BadInput(
            f"bounds need float32 or float64 from end to end, without autocast: '{name}' went from {read.dtype} to {out.dtype}"
        )
    broadcast = name in ELEMENTWISE and read.shape != out.shape
    mixed = len(out) != len(read) or (func in RESHAPES and tuple(out.shape) != (len(read), read.numel() // len(read)))
    if broadcast or mixed:
        raise BadInput(f"bounds do not know '{name}' from {tuple(read.shape)} to {tuple(out.shape)}")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
