"""Data sets held in memory as uint8, and augmentation as a pure function of (images, generator).

`load("digits")`, `load("cifar10", Path("~/data"))`, `load("npz:generated.npz")`. Files are looked for in `root` only, when it is given.
Without it they are looked for in `$KDIGA_DATA` (or `./data` where that is not set) and in the operating system's own data set packages,
and then downloaded by torchvision into the first.
"""

from collections.abc import Callable
from pathlib import Path

from kdiga.data import cifar, digits, folder, mnist, npz
from kdiga.data.augmentation import augment
from kdiga.data.splits import Dataset, Split, carve, sample
from kdiga.errors import BadInput
from kdiga.options import choices

__all__ = ["DATASETS", "Dataset", "Split", "augment", "carve", "load", "sample"]

# For the last two, the argument is the file or folder itself.
DATASETS: dict[str, Callable[[Path | None], Dataset]] = {
    "digits": digits.digits,
    "mnist": mnist.mnist,
    "fashion-mnist": mnist.fashion_mnist,
    "cifar10": cifar.cifar10,
    "cifar100": cifar.cifar100,
    "npz": npz.npz,
    "folder": folder.folder,
}


def load(spec: str, root: Path | None = None) -> Dataset:
    """The data set that `spec` names: NAME, `npz:PATH` or `folder:PATH`; a relative PATH starts at `root` when that is given.

    Raises BadInput where the name is unknown, or the files are not found, not readable or not what they claim to be.
    """
    name, colon, path = spec.partition(":")
    if name not in DATASETS:
        raise BadInput(f"there is no data set '{name}': {choices(name, DATASETS)}")
    needs_path = name in ("npz", "folder")
    if needs_path and not path:
        raise BadInput(f"data set '{spec}' names no file: write {name}:PATH")
    if colon and not needs_path:
        raise BadInput(f"data set '{name}' takes no path after a colon: write {name}, and give the folder it is in as root")
    if root is not None:
        root = root.expanduser()
    return DATASETS[name]((root or Path()) / Path(path).expanduser() if needs_path else root)
