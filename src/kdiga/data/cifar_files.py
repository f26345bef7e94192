"""One file of CIFAR-10 or CIFAR-100, in either published format."""

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from kdiga.data.reading import Stream, take
from kdiga.data.splits import Split, checked
from kdiga.data.unpickle import Array, text, unpickle
from kdiga.errors import BadInput

WHOLE = 2**40  # bytes: to the end of the stream


def binary(stream: Stream, classes: int, where: str, *, label: int) -> Split:
    """Records of label bytes and 3072 bytes of image (all red, all green, all blue); `label` is the byte just before the image."""
    size, blob = label + 1 + 3072, take(stream, WHOLE)
    if len(blob) % size or not blob:
        raise BadInput(
            f"{where} has {len(blob)} bytes, not a multiple of {size} (label and 3x32x32 values): delete it and fetch it again"
        )
    records = np.frombuffer(blob, dtype=np.uint8).reshape(-1, size)
    return _split(records[:, label + 1 :].copy(), torch.from_numpy(records[:, label].astype(np.int64)), classes, where)


def pickled(stream: Stream, classes: int, where: str, *, label: str) -> Split:
    """A dictionary with `data`, a uint8 matrix of one image per row, and the list of labels named `label`."""
    entry = _dictionary(stream)
    data, labels = entry.get("data"), entry.get(label)
    if not isinstance(data, Array) or not isinstance(labels, list) or not all(type(y) is int for y in labels):
        raise BadInput(f"{where} has no array 'data' with a list of whole numbers '{label}'")
    values = data.values()
    if values.shape[1] != 3072:
        raise BadInput(f"{where}: rows of {values.shape[1]} values, not 3072 (3x32x32)")
    return _split(values, torch.tensor(labels, dtype=torch.int64), classes, where)


def binary_names(stream: Stream, classes: int, where: str) -> tuple[str, ...]:
    """Class names, one per line."""
    return _named(take(stream, WHOLE).decode().split(), classes, where)


def pickled_names(stream: Stream, classes: int, where: str, *, key: str) -> tuple[str, ...]:
    """Class names, from a dictionary's list `key`."""
    return _named(_dictionary(stream).get(key), classes, where)


def _named(names: object, classes: int, where: str) -> tuple[str, ...]:
    if not isinstance(names, list) or len(names) != classes:
        raise BadInput(f"{where} does not name {classes} classes")
    return tuple(map(text, names))


def _dictionary(stream: Stream) -> dict[str, object]:
    entry = unpickle(bytes(take(stream, WHOLE)))
    if not isinstance(entry, dict):
        raise ValueError("it holds no dictionary")
    return {text(key): value for key, value in entry.items()}


def _split(values: UInt8[np.ndarray, "n m"], y: Int64[Tensor, "k"], classes: int, where: str) -> Split:
    return checked(torch.from_numpy(values).view(-1, 3, 32, 32), y, classes, where)
