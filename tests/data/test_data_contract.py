"""What every data set keeps to, on small files in the published formats."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from published_formats import binary10, pickled100, write_files, write_mnist, write_npz, write_pictures

from kdiga.data import DATASETS, Dataset, load
from kdiga.errors import BadInput


def made(name: str, tmp: Path) -> tuple[str, Path | None]:
    """The spec and root under which data set `name` can be loaded."""
    if name in ("mnist", "fashion-mnist"):
        write_mnist(tmp / name)
    elif name == "cifar10":
        write_files(tmp / "cifar-10-batches-bin", binary10())
    elif name == "cifar100":
        write_files(tmp / "cifar-100-python", pickled100())
    elif name == "npz":
        write_npz(tmp / "made.npz")
        return "npz:made.npz", tmp
    elif name == "folder":
        write_pictures(tmp / "pictures")
        return f"folder:{tmp / 'pictures'}", None
    return name, tmp


@pytest.fixture(scope="module", params=list(DATASETS))
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    spec = made(request.param, tmp_path_factory.mktemp(request.param))
    return load(*spec), load(*spec)


def test_images_are_in_range_and_labels_name_classes(dataset: tuple[Dataset, Dataset]) -> None:
    d, _ = dataset
    c, h, w = d.shape
    for split in (d.train, d.test):
        assert split.x.dtype == torch.uint8
        assert split.x.shape == (len(split), c, h, w)
        assert split.x.is_contiguous()
        assert len(split.y) == len(split) > 0
        assert 0 <= int(split.y.min()) <= int(split.y.max()) < len(d.classes)
        x = split.images()
        assert x.dtype == torch.float32
        assert torch.equal(x, split.x.float() / 255)
        assert 0 <= float(x.min()) < float(x.max()) <= 1


def test_loading_twice_gives_the_same_rows(dataset: tuple[Dataset, Dataset]) -> None:
    one, two = dataset
    for a, b in ((one.train, two.train), (one.test, two.test)):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)


def test_moments_are_those_of_the_training_images(dataset: tuple[Dataset, Dataset]) -> None:
    d, _ = dataset
    x = d.train.images().double()
    torch.testing.assert_close(torch.tensor(d.mean), x.mean((0, 2, 3)).float())
    torch.testing.assert_close(torch.tensor(d.std), x.std((0, 2, 3), correction=0).float())


def test_classes_are_distinct_and_augmentation_fits_the_images(dataset: tuple[Dataset, Dataset]) -> None:
    d, _ = dataset
    assert len(set(d.classes)) == len(d.classes)
    assert 0 <= d.crop <= min(d.shape[1:]) // 7


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("fashon-mnist", "no data set 'fashon-mnist': did you mean 'fashion-mnist'. accepted: digits, mnist, .*folder"),
        ("npz", "names no file: write npz:PATH"),
        ("folder:", "names no file: write folder:PATH"),
        ("digits:3", "takes no path after a colon"),
        ("npz:absent.npz", r"absent.npz does not exist"),
        ("folder:absent", "absent has no folder 'train'"),
    ],
)
def test_a_spec_that_names_nothing_is_refused(spec: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=line):
        load(spec, tmp_path)


def test_a_constant_channel_has_a_deviation_one_can_divide_by(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", more={"image": np.full((30, 8, 8, 1), 51, dtype=np.uint8)})
    d = load(f"npz:{tmp_path / 'a.npz'}")
    assert d.std == (1.0,)
    assert math.isclose(d.mean[0], 0.2)
