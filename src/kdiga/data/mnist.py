"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747): 60 000 and 10 000 images, 1x28x28, ten classes."""

from pathlib import Path

from kdiga.data.idx import read_idx
from kdiga.data.places import SYSTEM, home, locate
from kdiga.data.splits import Dataset, Split, checked

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FILES = tuple(f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))


def mnist(root: Path | None = None) -> Dataset:
    """Handwritten digits; not augmented by default. Places and errors: see `fashion_mnist`."""
    return _load("mnist", "MNIST", tuple("0123456789"), root, False)


def fashion_mnist(root: Path | None = None) -> Dataset:
    """Pictures of clothes; flipped by default.

    The four published idx files, gzipped or not, are looked for in FashionMNIST/raw (torchvision's layout) and fashion-mnist under
    `root`, then in `root` itself; MNIST has the same file names, so the last is for a root that was given. Without a root, also in
    /usr/share/datasets (Debian: `apt-get install dataset-fashion-mnist`). Raises BadInput naming the places, or the damaged file.
    """
    return _load("fashion-mnist", "FashionMNIST", CLOTHES, root, True)


def _load(name: str, class_name: str, classes: tuple[str, ...], root: Path | None, flip: bool) -> Dataset:
    top = root or home()
    places = [top / class_name / "raw", top / name, root or SYSTEM / name]
    debian = " or install Debian's package dataset-fashion-mnist" if name == "fashion-mnist" else ""
    hint = f"put {', '.join(FILES)} (each plain or .gz) in {top / name}, give the folder they are in as root (--root)," + debian
    folder = locate(name, places, _lacks, root=root, class_name=class_name, hint=hint.rstrip(","))
    return Dataset(name, _split(folder, *FILES[:2]), _split(folder, *FILES[2:]), classes, crop=0, flip=flip)


def _split(folder: Path, images: str, labels: str) -> Split:
    x, path = read_idx(_find(folder, images), 3), _find(folder, labels)
    return checked(x[:, None], read_idx(path, 1).long(), 10, path)


def _find(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.is_file() else folder / f"{name}.gz"


def _lacks(folder: Path) -> str:
    return next((name for name in FILES if not _find(folder, name).is_file()), "")
