"""What `evaluate` refuses."""

import torch
from torch import Tensor, nn

from kdiga.attacks.guard import check_range
from kdiga.errors import BadInput


def check_input(x: Tensor, y: Tensor, batch_size: int) -> None:
    """Raises BadInput for images that are not float32 NCHW in [0, 1], labels that are not one int64 each, no samples, no batch."""
    if x.ndim != 4 or not len(x):
        raise BadInput(f"images must be a tensor of shape (n, channels, height, width) with n at least 1, got {tuple(x.shape)}")
    if x.dtype != torch.float32:
        raise BadInput(f"images must be float32 in [0, 1], got {x.dtype}")
    if y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise BadInput(f"labels must be int64, one for each of the {len(x)} images, got {y.dtype} of shape {tuple(y.shape)}")
    if batch_size < 1:
        raise BadInput(f"batch size {batch_size} is too small: use at least 1")
    check_range(x)


def checked_logits(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The model's logits for x. Raises BadInput if it cannot read x, or does not return one row of logits per image, a logit per label."""
    expected, got = getattr(getattr(model, "info", None), "shape", None), tuple(x.shape[1:])
    wrong = f"the model does not read images of (channels, height, width) {got}"
    if expected is not None:
        wrong += f": it expects {tuple(expected)}"
        if expected[0] != got[0]:  # normalisation may broadcast one channel to three, without an error
            raise BadInput(wrong)
    try:
        z = model(x)
    except RuntimeError as error:
        raise BadInput(f"{wrong} ({str(error).splitlines()[0]})") from error
    if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != len(x) or z.shape[1] < 2:
        shape = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise BadInput(f"the model must return logits of shape ({len(x)}, classes) with at least two classes, got {shape}")
    if y.min() < 0 or y.max() >= z.shape[1]:
        raise BadInput(f"labels must lie in 0 to {z.shape[1] - 1}, the model's classes, found {int(y.min())} to {int(y.max())}")
    return z
