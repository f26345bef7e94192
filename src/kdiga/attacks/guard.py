"""What an attack needs of the model and of torch while it runs, and leaves behind: nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from kdiga.errors import BadInput
from kdiga.inner import eval_mode
from kdiga.types import Images


@contextmanager
def guarded(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside: evaluation mode, parameters that take no gradient, gradients enabled, full precision, a fork of the random state.

    After, also after an exception: all as it was. `device` is where the images are. Parameters are frozen because an attack
    differentiates by the image only; FAB's backward would else fill their `.grad`, and pay for it.
    """
    wanted = {p: p.requires_grad for p in model.parameters()}
    # torch.manual_seed reseeds every CUDA device
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with (
        eval_mode(model),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.random.fork_rng(devices=cuda),
    ):
        try:
            for p in wanted:
                p.requires_grad_(False)
            yield
        finally:
            for p, flag in wanted.items():
                p.requires_grad_(flag)


def check_range(x: Images) -> None:
    """Raises BadInput for images outside [0, 1], NaN included: an attack would clip them, and so attack others."""
    low, high = (float(v) for v in x.aminmax())
    if not (low >= 0 and high <= 1):
        hint = "divide by 255" if low >= 0 and high > 2 else "normalisation belongs inside the model"
        raise BadInput(f"images must lie in [0, 1], found {low:g} to {high:g}: {hint}")
