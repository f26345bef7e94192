"""Small data sets written byte for byte in the formats in which the real ones are published."""

import gzip
import io
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray
from PIL import Image

Pixels = UInt8[ndarray, "..."]
Numbers = Int64[ndarray, "n"]


def pixels(seed: int, *shape: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def labels(n: int, classes: int = 10) -> Numbers:
    return np.arange(n, dtype=np.int64) % classes


def idx(values: Pixels) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_mnist(folder: Path, *, gz: bool = False, n: int = 30) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, size, seed in (("train", n, 1), ("t10k", n // 2, 2)):
        for name, content in (
            (f"{part}-images-idx3-ubyte", idx(pixels(seed, size, 28, 28))),
            (f"{part}-labels-idx1-ubyte", idx(labels(size).astype(np.uint8))),
        ):
            (folder / (f"{name}.gz" if gz else name)).write_bytes(gzip.compress(content) if gz else content)


# CIFAR: n images in each training file and in the test file; file k is drawn from seed k, the test file from seed 0.

TRAIN10 = [f"data_batch_{k}" for k in range(1, 6)]


def binary10(n: int = 4) -> dict[str, bytes]:
    files = {
        f"{name}.bin": b"".join(bytes([y]) + x.tobytes() for x, y in zip(pixels(k, n, 3072), labels(n), strict=True))
        for k, name in [(0, "test_batch"), *enumerate(TRAIN10, 1)]
    }
    return files | {"batches.meta.txt": "\n".join(f"kind{k}" for k in range(10)).encode() + b"\n\n"}


def binary100(n: int = 4) -> dict[str, bytes]:
    return {
        name: b"".join(bytes([7, y + 90]) + x.tobytes() for x, y in zip(pixels(k, n, 3072), labels(n), strict=True))
        for k, name in enumerate(("test.bin", "train.bin"))
    }


def python2_text(value: bytes) -> bytes:
    return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<I", len(value)) + value


def python2_array(values: Pixels, fortran: bool = False) -> bytes:
    """What Python 2's cPickle writes for a uint8 matrix in protocol 2, less the memo."""
    n, m = values.shape
    shape, data = b"J" + struct.pack("<i", n) + b"J" + struct.pack("<i", m) + b"\x86", values.tobytes("F" if fortran else "C")
    dtype = (
        b"cnumpy\ndtype\n"
        + python2_text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + python2_text(b"|")
        + b"NNN"
        + b"J\xff\xff\xff\xff" * 2
        + b"K\x00tb"
    )
    make = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + python2_text(b"b") + b"\x87R"
    return make + b"(K\x01" + shape + dtype + (b"\x88" if fortran else b"\x89") + python2_text(data) + b"tb"


def python2_list(values: list[bytes] | list[int]) -> bytes:
    return b"](" + b"".join(python2_text(v) if isinstance(v, bytes) else b"K" + bytes([v]) for v in values) + b"e"


def python2(entries: Mapping[bytes, bytes]) -> bytes:
    """A dictionary of values that are pickled already."""
    return b"\x80\x02}q\x01(" + b"".join(python2_text(k) + v for k, v in entries.items()) + b"u."


def python2_batch(seed: int, n: int, label: bytes, add: int = 0, fortran: bool = False) -> bytes:
    return python2(
        {
            b"batch_label": python2_text(b"training batch 1 of 5"),
            b"data": python2_array(pixels(seed, n, 3072), fortran),
            label: python2_list([int(y) + add for y in labels(n)]),
            b"filenames": python2_list([b"camion_s_%06d.png" % i for i in range(n)]),
        }
    )


def pickled10(n: int = 4) -> dict[str, bytes]:
    files = {name: python2_batch(k, n, b"labels", fortran=k == 2) for k, name in [(0, "test_batch"), *enumerate(TRAIN10, 1)]}
    return files | {"batches.meta": python2({b"label_names": python2_list([b"kind%d" % k for k in range(10)])})}


def pickled100(n: int = 4) -> dict[str, bytes]:
    return {name: python2_batch(k, n, b"fine_labels", 90) for k, name in enumerate(("test", "train"))}


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def write_tar(path: Path, folder: str, files: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_npz(path: Path, n: int = 30, more: Mapping[str, ndarray] | None = None) -> None:
    """`image` and `label` of n images, with `more` arrays beside or in place of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{"image": pixels(1, n, 16, 16, 3), "label": labels(n)} | dict(more or {}))  # type: ignore[arg-type]


def write_pictures(top: Path, test: str = "test", mode: str = "RGB") -> None:
    """Two classes with three training pictures and one test picture each, 16 high and 17 wide."""
    for part, n in (("train", 3), (test, 1)):
        for k, name in enumerate(("cat", "dog")):
            (top / part / name).mkdir(parents=True)
            for i in range(n):
                shape = (16, 17, 3) if mode == "RGB" else (16, 17)
                Image.fromarray(pixels(10 * k + i + len(part), *shape)).save(top / part / name / f"{i}.png")
