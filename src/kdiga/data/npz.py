"""Arrays in numpy's .npz, the form in which generated images are shared: `image` uint8 [n, height, width, channel] and `label` [n]."""

from math import prod
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from kdiga.data.reading import CHUNK, Stream, reading, refuse_bomb, take
from kdiga.data.splits import Dataset, Split, carve, checked
from kdiga.errors import BadInput

MAX_CLASSES = 100_000


def npz(path: Path | None) -> Dataset:
    """A file with `image` and `label`, and perhaps `image_test` and `label_test`; or a folder with train.npz and test.npz.

    Without test images, a tenth of the images is set aside for the test split: stratified, from a fixed seed, the same each time.
    There are as many classes as the largest training label says, named by their numbers. Padded by an eighth of the shorter side
    and cropped, never flipped, by default. Raises BadInput naming the file.
    """
    if path is None or not path.exists():
        raise BadInput(f"{path} does not exist: write npz:PATH with an .npz file, or a folder with train.npz and test.npz")
    if path.is_dir():
        train = _read(path / "train.npz")
        test: Split | None = _read(path / "test.npz", classes=_classes(train))
    else:
        train = _read(path)
        with reading(path, "an .npz file"), ZipFile(path) as archive:
            has_test = "image_test.npy" in archive.namelist()
        test = _read(path, "_test", _classes(train)) if has_test else None
    names = tuple(map(str, range(_classes(train))))
    if test is None:
        if len(train) < 2:
            raise BadInput(f"{path} holds one image: a tenth is set aside for testing, so at least two are needed")
        train, test = carve(train, max(1, len(train) // 10), seed=0)
    return Dataset(f"npz:{path}", train, test, names, crop=min(train.x.shape[2:]) // 8, flip=False)


def _classes(train: Split) -> int:
    return int(train.y.max()) + 1


def _read(path: Path, suffix: str = "", classes: int = MAX_CLASSES) -> Split:
    with reading(path, "an .npz file"), ZipFile(path) as archive:
        return checked(_images(archive, f"image{suffix}", path), _labels(archive, f"label{suffix}", path), classes, path)


def _open(archive: ZipFile, key: str, path: Path) -> tuple[Stream, tuple[int, ...], np.dtype[Any]]:
    """An array's stream, shape and type, once its header agrees with the length of the archive's member."""
    if f"{key}.npy" not in archive.namelist():
        raise BadInput(f"{path} has no array '{key}': image and label expected, found {', '.join(archive.namelist())[:100]!r}")
    stream, inside = archive.open(f"{key}.npy"), archive.getinfo(f"{key}.npy").file_size
    if np.lib.format.read_magic(stream) != (1, 0):
        raise BadInput(f"{path}: array '{key}' is not in version 1.0 of the .npy format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    size = prod(shape) * dtype.itemsize
    refuse_bomb(path, size, path.stat().st_size)
    if min(shape, default=0) < 0 or stream.tell() + size != inside:
        raise BadInput(f"{path}: the header of array '{key}' promises {size} bytes, {inside - stream.tell()} are there")
    if fortran and len(shape) > 1:
        raise BadInput(f"{path}: array '{key}' is in Fortran order: save np.ascontiguousarray of it")
    return stream, shape, dtype


def _images(archive: ZipFile, key: str, path: Path) -> UInt8[Tensor, "n c h w"]:
    """Images as NCHW, turned around a few at a time so that no second copy of them is held."""
    stream, shape, dtype = _open(archive, key, path)
    if len(shape) != 4 or dtype != np.uint8:
        raise BadInput(f"{path}: array '{key}' is {dtype} {list(shape)}: uint8 [n, height, width, channel] expected")
    n, h, w, c = shape
    x = torch.empty(n, c, h, w, dtype=torch.uint8)
    step = max(1, CHUNK // max(1, h * w * c))
    for part in x.split(step) if x.numel() else ():
        values = take(stream, part.numel())
        if len(values) < part.numel():
            raise BadInput(f"{path}: array '{key}' ends early")
        part.copy_(torch.frombuffer(values, dtype=torch.uint8).view(-1, h, w, c).permute(0, 3, 1, 2))
    return x


def _labels(archive: ZipFile, key: str, path: Path) -> Int64[Tensor, "n"]:
    stream, shape, dtype = _open(archive, key, path)
    if len(shape) != 1 or dtype.kind not in "iu":
        raise BadInput(f"{path}: array '{key}' is {dtype} {list(shape)}: whole numbers [n] expected")
    values = take(stream, shape[0] * dtype.itemsize)
    if len(values) < shape[0] * dtype.itemsize:
        raise BadInput(f"{path}: array '{key}' ends early")
    return torch.from_numpy(np.frombuffer(values, dtype=dtype).astype(np.int64))
