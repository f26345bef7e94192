"""A folder of pictures: train/CLASS/*.png or .jpg, and test/CLASS or val/CLASS likewise."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from kdiga.data.reading import reading, refuse_bomb
from kdiga.data.splits import Dataset, Split, checked
from kdiga.errors import BadInput

SUFFIXES = (".png", ".jpg", ".jpeg")


def folder(path: Path | None) -> Dataset:
    """Pictures of one size, all grey or all RGB, eight bits per value; classes are the sorted names of the folders in train.

    The test split is `test`, or `val` where there is no `test`. Padded by an eighth of the shorter side and cropped, never flipped,
    by default. Raises BadInput naming the first picture that cannot be read, or differs from the first in size or colour.
    """
    if path is None or not (path / "train").is_dir():
        raise BadInput(f"{path} has no folder 'train': write folder:PATH, where PATH holds train/CLASS/*.png and test/CLASS/*.png")
    held_out = next((path / part for part in ("test", "val") if (path / part).is_dir()), None)
    if held_out is None:
        raise BadInput(f"{path} has no folder 'test' or 'val'")
    classes = tuple(sorted(p.name for p in (path / "train").iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not classes:
        raise BadInput(f"{path / 'train'} has no folder for any class: train/CLASS/*.png expected")
    train, test = _read(path / "train", classes), _read(held_out, classes)
    return Dataset(f"folder:{path}", train, test, classes, crop=min(train.x.shape[2:]) // 8, flip=False)


def _read(part: Path, classes: tuple[str, ...]) -> Split:
    """Every picture in `part`, class by class, in order of name."""
    found = sorted(p.name for p in part.iterdir() if p.is_dir() and not p.name.startswith("."))
    if strange := [name for name in found if name not in classes]:
        raise BadInput(f"{part / strange[0]} is not a class of the training images: {', '.join(classes[:10])}")
    files = [(p, k) for k, name in enumerate(classes) if name in found for p in sorted((part / name).iterdir()) if _is_picture(p)]
    y = torch.tensor([k for _, k in files], dtype=torch.int64)
    if not files:
        raise BadInput(f"{part} holds no images: CLASS/*.png, .jpg or .jpeg expected")
    return checked(_pictures([p for p, _ in files]), y, len(classes), part)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _pictures(files: list[Path]) -> UInt8[Tensor, "n c h w"]:
    from PIL import Image

    x = torch.empty(0, 0, 0, 0, dtype=torch.uint8)
    kind = (0, 0, "")
    for i, path in enumerate(files):
        with reading(path, "a picture"), Image.open(path, formats=("PNG", "JPEG")) as picture:
            if i == 0:
                kind = (*picture.size, picture.mode)
                if picture.mode not in ("L", "RGB"):
                    raise BadInput(f"{path} has mode {picture.mode}: 8-bit grey (L) or RGB expected")
                shape = (len(files), len(picture.mode), picture.height, picture.width)
                refuse_bomb(path.parent.parent, int(np.prod(shape, dtype=object)), sum(p.stat().st_size for p in files))
                x = torch.empty(shape, dtype=torch.uint8)
            if (*picture.size, picture.mode) != kind:
                here, there = (f"{w}x{h} {mode}" for w, h, mode in ((*picture.size, picture.mode), kind))
                raise BadInput(f"{path} is {here}, but {files[0]} is {there}: all pictures must have one size and mode")
            x[i] = torch.from_numpy(np.array(picture)).view(picture.height, picture.width, -1).permute(2, 0, 1)
    return x
