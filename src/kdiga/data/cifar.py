"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50 000 and 10 000 images, 3x32x32, from either published archive, packed or unpacked."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from kdiga.data.archive import members
from kdiga.data.cifar_files import binary, binary_names, pickled, pickled_names
from kdiga.data.cifar_names import CIFAR10, CIFAR100
from kdiga.data.places import home, locate
from kdiga.data.reading import Stream, reading
from kdiga.data.splits import Dataset, Split
from kdiga.errors import BadInput


@dataclass(frozen=True)
class Layout:
    """One published archive: its name, the folder that it unpacks to, the files inside and how to read them."""

    archive: str
    folder: str
    train: tuple[str, ...]
    test: str
    images: Callable[[Stream, int, str], Split]  # of (stream, number of classes, name for messages)
    meta: str  # the file with the class names: may be missing
    names: Callable[[Stream, int, str], tuple[str, ...]]


FIVE = tuple(f"data_batch_{k}" for k in range(1, 6))
FIVE_BIN = tuple(f"{name}.bin" for name in FIVE)
NAMES10, NAMES100 = partial(pickled_names, key="label_names"), partial(pickled_names, key="fine_label_names")
BINARY10, PICKLED10 = partial(binary, label=0), partial(pickled, label="labels")
BINARY100, PICKLED100 = partial(binary, label=1), partial(pickled, label="fine_labels")
LAYOUTS10 = (
    Layout("cifar-10-python.tar.gz", "cifar-10-batches-py", FIVE, "test_batch", PICKLED10, "batches.meta", NAMES10),
    Layout(
        "cifar-10-binary.tar.gz", "cifar-10-batches-bin", FIVE_BIN, "test_batch.bin", BINARY10, "batches.meta.txt", binary_names
    ),
)
LAYOUTS100 = (
    Layout("cifar-100-python.tar.gz", "cifar-100-python", ("train",), "test", PICKLED100, "meta", NAMES100),
    Layout(
        "cifar-100-binary.tar.gz", "cifar-100-binary", ("train.bin",), "test.bin", BINARY100, "fine_label_names.txt", binary_names
    ),
)


def cifar10(root: Path | None = None) -> Dataset:
    """Ten classes. By default padded by 4, cropped and flipped, as in He et al. 2016 (arXiv 1512.03385).

    `root` holds the folder or the .tar.gz of the pickled or of the binary version, under its published name, or is that folder; the
    .tar.gz is read without unpacking it to disk. Raises BadInput naming the places, or the damaged file.
    """
    return _load("cifar10", "CIFAR10", LAYOUTS10, CIFAR10, root)


def cifar100(root: Path | None = None) -> Dataset:
    """A hundred classes: the fine labels. Augmentation, places and errors as for `cifar10`."""
    return _load("cifar100", "CIFAR100", LAYOUTS100, CIFAR100, root)


def _load(name: str, class_name: str, layouts: tuple[Layout, ...], classes: tuple[str, ...], root: Path | None) -> Dataset:
    top = root or home()
    places = [top / p for layout in layouts for p in (layout.folder, layout.archive)] + ([root] if root else [])
    hint = f"put {layouts[0].archive} from https://www.cs.toronto.edu/~kriz/cifar.html in {top}, or give the folder it is in as root (--root)"
    place = locate(name, places, lambda p: _lacks(p, layouts), root=root, class_name=class_name, hint=hint)
    layout = next(layout for layout in layouts if not _lacks(place, (layout,)))
    parts: dict[str, Split] = {}
    for file, stream in _files(place, layout):
        where = f"{place}/{file}"
        with reading(where, "part of CIFAR"):
            if file == layout.meta:
                classes = layout.names(stream, len(classes), where)
            else:
                parts[file] = layout.images(stream, len(classes), where)
    if lost := [file for file in (*layout.train, layout.test) if file not in parts]:
        raise BadInput(f"{place} has no {layout.folder}/{lost[0]}: delete it and fetch it again")
    train = [parts.pop(file) for file in layout.train]
    joined = Split(torch.cat([part.x for part in train]), torch.cat([part.y for part in train]))
    return Dataset(name, joined, parts[layout.test], classes, crop=4, flip=True)


def _lacks(place: Path, layouts: tuple[Layout, ...]) -> str:
    """What is missing at `place` before it is one of `layouts`; for a folder with part of one, the first missing file."""
    if any(place.name == layout.archive for layout in layouts):
        return "" if place.is_file() else "such file"
    lacking = [[f for f in (*layout.train, layout.test) if not (place / f).is_file()] for layout in layouts]
    return min(lacking, key=len)[0] if all(lacking) else ""


def _files(place: Path, layout: Layout) -> Iterator[tuple[str, Stream]]:
    """The name and open stream of each wanted file that there is."""
    wanted = (layout.meta, *layout.train, layout.test)
    if place.is_file():
        yield from members(place, layout.folder, wanted)
        return
    for name in wanted:
        if (place / name).is_file():
            with reading(place / name, "part of CIFAR"), (place / name).open("rb") as stream:
                yield name, stream
