"""npz files and folders of pictures: what is read, and the line for each thing that can be wrong with them."""

import io
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from published_formats import labels, pixels, write_npz, write_pictures

from kdiga.data import load
from kdiga.errors import BadInput


def test_one_npz_holds_out_a_tenth_of_each_class(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", n=200)
    d = load("npz:a.npz", tmp_path)
    assert (len(d.train), len(d.test), d.shape, d.crop, d.flip) == (180, 20, (3, 16, 16), 2, False)
    assert torch.bincount(d.test.y).tolist() == [2] * 10
    whole = torch.from_numpy(pixels(1, 200, 16, 16, 3)).permute(0, 3, 1, 2).flatten(1)
    assert sorted(torch.cat([d.train.x, d.test.x]).flatten(1).tolist()) == sorted(whole.tolist())
    assert d.classes == tuple("0123456789")


def test_an_npz_with_test_images_and_a_folder_with_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdiga.data.npz.CHUNK", 5000)  # several pieces
    x, y = pixels(3, 7, 16, 16, 3), labels(7)
    write_npz(tmp_path / "a.npz", more={"image_test": x, "label_test": y.astype(">i2")})
    write_npz(tmp_path / "two" / "train.npz")
    write_npz(tmp_path / "two" / "test.npz", more={"image": x, "label": y.astype(np.uint8)})
    one, two = load(f"npz:{tmp_path / 'a.npz'}"), load("npz:two", tmp_path)
    for d in (one, two):
        assert torch.equal(d.train.x.permute(0, 2, 3, 1), torch.from_numpy(pixels(1, 30, 16, 16, 3)))
        assert torch.equal(d.test.x.permute(0, 2, 3, 1), torch.from_numpy(x))
        assert torch.equal(d.test.y, torch.from_numpy(y))


def test_a_compressed_npz_is_read_too(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", image=pixels(1, 20, 8, 8, 1), label=labels(20))
    assert len(load("npz:a.npz", tmp_path).train) == 18


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"image": pixels(1, 30, 16, 16)}, r"array 'image' is uint8 \[30, 16, 16\]: uint8 \[n, height, width, channel\] expected"),
        ({"image": pixels(1, 30, 4, 4, 3) / 255}, "array 'image' is float64"),
        ({"image": np.asfortranarray(pixels(1, 30, 4, 4, 3))}, "'image' is in Fortran order"),
        ({"image": np.array([{}], dtype=object)}, "image"),
        ({"image": pixels(1, 0, 4, 4, 3), "label": labels(0)}, "holds no images"),
        ({"image": pixels(1, 30, 4, 0, 3)}, "holds no images"),
        ({"image": pixels(1, 1, 4, 4, 3), "label": labels(1)}, "holds one image"),
        ({"label": labels(29)}, "30 images but 29 labels"),
        ({"label": labels(30) - 1}, "label -1 is outside"),
        ({"label": labels(30) + 2**40}, "label 1099511627776 is outside 0 .. 99999"),
        ({"label": labels(30).astype(np.float32)}, "array 'label' is float32"),
        ({"label": np.array([{}] * 30, dtype=object)}, "label"),
        ({"image_test": pixels(1, 3, 16, 16, 3), "label_test": labels(3) + 8}, "label 10 is outside 0 .. 9"),
        (
            {"image_test": pixels(1, 3, 16, 15, 3), "label_test": labels(3)},
            r"images have shape \(3, 16, 16\), test images \(3, 16, 15\)",
        ),
        ({"image_test": pixels(1, 3, 16, 16, 3)}, "has no array 'label_test'"),
    ],
)
def test_an_npz_with_the_wrong_arrays_is_named(arrays: dict[str, np.ndarray[Any, Any]], line: str, tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", more=arrays)
    with pytest.raises(BadInput, match=rf"a\.npz.*{line}"):
        load("npz:a.npz", tmp_path)


def header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("image", "line"),
    [
        (header((10**6, 1000, 1000, 3)), r"claims to hold 3000000000000 bytes of images in \d+ bytes on disk"),
        (header((10, 1000, 1000, 3)), "the header of array 'image' promises 30000000 bytes, 0 are there"),
        (header((2, 4, 4, 3)) + bytes(97), "promises 96 bytes, 97 are there"),
        (header((-2, -4, 4, 3)) + bytes(96), "the header of array 'image' promises 96 bytes"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(10), "not in version 1.0"),
        (b"\x93NUMPY\x01\x00\xff\xff" + bytes(10), "cannot be read as an .npz file"),
        (b"\x80\x02cposix\nsystem\nU\x02ls\x85R.", "cannot be read as an .npz file"),
    ],
)
def test_an_npz_whose_header_lies_is_refused_at_once(image: bytes, line: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", image)
        archive.writestr("label.npy", b"")
    began = time.perf_counter()
    with pytest.raises(BadInput, match=line):
        load("npz:a.npz", tmp_path)
    assert time.perf_counter() - began < 1


def test_an_npz_whose_directory_lies_too_is_refused(tmp_path: Path) -> None:
    """Header and directory agree on 30 MB; the compressed bytes hold less."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        content = header((10, 1000, 1000, 3)) + bytes(50)
        archive.writestr("image.npy", content)
        archive.writestr("label.npy", b"")
        archive.getinfo("image.npy").file_size += 30_000_000 - 50
    with pytest.raises(BadInput, match=r"a.npz"):
        load("npz:a.npz", tmp_path)


def test_an_npz_that_is_cut_short_is_named(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:5000])
    with pytest.raises(BadInput, match=r"a.npz cannot be read as an .npz file: File is not a zip file"):
        load("npz:a.npz", tmp_path)
    (tmp_path / "two").mkdir()
    with pytest.raises(BadInput, match=r"two/train.npz cannot be read as an .npz file: No such file"):
        load("npz:two", tmp_path)


def test_a_changed_byte_in_an_npz_is_found(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz")
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[5000] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(BadInput, match=r"a.npz cannot be read as an .npz file: Bad CRC-32"):
        load("npz:a.npz", tmp_path)


def test_the_line_about_a_damaged_npz_is_short(tmp_path: Path) -> None:
    """zipfile quotes what it takes for a file name, however long."""
    write_npz(tmp_path / "a.npz")
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[26:28] = b"\xff\x0f"
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(BadInput, match=r"a.npz cannot be read as an .npz file: File name in directory") as caught:
        load("npz:a.npz", tmp_path)
    assert len(str(caught.value).removeprefix(str(tmp_path))) < 300


@pytest.mark.parametrize("test", ["test", "val"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_folder_of_pictures(test: str, mode: str, tmp_path: Path) -> None:
    write_pictures(tmp_path, test, mode)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / "train" / ".cache").mkdir()
    d = load(f"folder:{tmp_path}")
    channels = len(mode) if mode == "RGB" else 1
    assert (d.shape, d.crop, d.flip, d.classes) == ((channels, 16, 17), 2, False, ("cat", "dog"))
    assert d.train.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert d.test.y.tolist() == [0, 1]
    with Image.open(tmp_path / "train" / "dog" / "1.png") as picture:
        expected = np.asarray(picture).reshape(16, 17, channels)
    assert torch.equal(d.train.x[4].permute(1, 2, 0), torch.from_numpy(expected.copy()))


def test_jpeg_pictures_are_read(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    Image.new("RGB", (17, 16), (200, 100, 50)).save(tmp_path / "train" / "cat" / "9.JPG", format="JPEG")
    d = load(f"folder:{tmp_path}")
    assert (d.train.x[3].float().mean((1, 2)) - torch.tensor([200.0, 100, 50])).abs().max() < 3


def test_the_first_picture_that_differs_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    odd = tmp_path / "train" / "dog" / "0.png"
    Image.new("RGB", (16, 16)).save(odd)
    with pytest.raises(BadInput, match=r"dog/0.png is 16x16 RGB, but .*cat/0.png is 17x16 RGB: all pictures"):
        load(f"folder:{tmp_path}")
    Image.new("L", (17, 16)).save(odd)
    with pytest.raises(BadInput, match=r"dog/0.png is 17x16 L, but"):
        load(f"folder:{tmp_path}")
    Image.new("RGBA", (17, 16)).save(tmp_path / "train" / "cat" / "0.png")
    with pytest.raises(BadInput, match=r"cat/0.png has mode RGBA: 8-bit grey \(L\) or RGB expected"):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n"])
def test_a_picture_that_is_none_is_named(content: bytes, tmp_path: Path) -> None:
    write_pictures(tmp_path)
    (tmp_path / "train" / "dog" / "1.png").write_bytes(content)
    with pytest.raises(BadInput, match=r"dog/1.png cannot be read as a picture") as caught:
        load(f"folder:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_another_format_under_the_name_of_png_is_refused(tmp_path: Path) -> None:
    """Pillow reads dozens of formats, some through old and rarely used code: only the two that are asked for are decoded."""
    write_pictures(tmp_path)
    Image.new("RGB", (17, 16)).save(tmp_path / "train" / "dog" / "1.png", format="BMP")
    with pytest.raises(BadInput, match=r"dog/1.png cannot be read as a picture: cannot identify"):
        load(f"folder:{tmp_path}")


def test_a_picture_that_is_cut_short_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    path = tmp_path / "test" / "dog" / "0.png"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BadInput, match=r"test/dog/0.png cannot be read as a picture"):
        load(f"folder:{tmp_path}")


def test_missing_parts_of_a_folder_are_named(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    (tmp_path / "test" / "cow").mkdir()
    with pytest.raises(BadInput, match=r"test/cow is not a class of the training images: cat, dog"):
        load(f"folder:{tmp_path}")
    shutil.rmtree(tmp_path / "test")
    with pytest.raises(BadInput, match="has no folder 'test' or 'val'"):
        load(f"folder:{tmp_path}")
    (tmp_path / "val").mkdir()
    with pytest.raises(BadInput, match=r"val holds no images"):
        load(f"folder:{tmp_path}")
    shutil.rmtree(tmp_path / "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(BadInput, match=r"train has no folder for any class"):
        load(f"folder:{tmp_path}")


def test_pictures_that_unpack_to_far_more_than_they_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdiga.data.reading.FREE", 2**20)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "test").mkdir()
    Image.new("L", (2000, 2000)).save(tmp_path / "train" / "cat" / "0.png")
    with pytest.raises(BadInput, match=r"train claims to hold 4000000 bytes of images in \d+ bytes on disk"):
        load(f"folder:{tmp_path}")
