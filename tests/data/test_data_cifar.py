"""CIFAR-10 and CIFAR-100 in both published archives, and files that pretend to be theirs."""

import gzip
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from published_formats import (
    binary10,
    binary100,
    labels,
    pickled10,
    pickled100,
    pixels,
    python2,
    python2_array,
    python2_batch,
    python2_list,
    python2_text,
    write_files,
    write_tar,
)

from kdiga.data import load
from kdiga.data.unpickle import Array, unpickle
from kdiga.errors import BadInput

CASES: dict[str, tuple[str, str, str, Callable[[], dict[str, bytes]]]] = {
    "binary10": ("cifar10", "cifar-10-batches-bin", "cifar-10-binary.tar.gz", binary10),
    "pickled10": ("cifar10", "cifar-10-batches-py", "cifar-10-python.tar.gz", pickled10),
    "binary100": ("cifar100", "cifar-100-binary", "cifar-100-binary.tar.gz", binary100),
    "pickled100": ("cifar100", "cifar-100-python", "cifar-100-python.tar.gz", pickled100),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("how", ["folder", "folder itself", "tar"])
def test_every_published_layout_gives_the_same_images(case: str, how: str, tmp_path: Path) -> None:
    name, folder, archive, files = CASES[case]
    if how == "tar":
        write_tar(tmp_path / archive, folder, files())
    else:
        write_files(tmp_path / folder, files())
    d = load(name, tmp_path / folder if how == "folder itself" else tmp_path)
    batches = 5 if name == "cifar10" else 1
    expected = np.concatenate([pixels(k, 4, 3, 32, 32) for k in range(1, batches + 1)])
    assert torch.equal(d.train.x, torch.from_numpy(expected))
    assert torch.equal(d.test.x, torch.from_numpy(pixels(0, 4, 3, 32, 32)))
    first = 0 if name == "cifar10" else 90
    assert torch.equal(d.train.y, torch.from_numpy(np.tile(labels(4), batches)) + first)
    assert (d.crop, d.flip, len(d.classes)) == (4, True, 10 if name == "cifar10" else 100)
    # The made CIFAR-10 comes with names of its own, the made CIFAR-100 without any.
    assert d.classes[:2] == (("kind0", "kind1") if name == "cifar10" else ("apple", "aquarium_fish"))


def test_the_names_that_are_filled_in() -> None:
    from kdiga.data.cifar_names import CIFAR10, CIFAR100

    assert len(CIFAR10) == 10
    assert (len(CIFAR100), len(set(CIFAR100)), list(CIFAR100)) == (100, 100, sorted(CIFAR100))


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", [str, bytes])
def test_batches_written_again_by_python_3(protocol: int, kind: type, tmp_path: Path) -> None:
    def key(name: str) -> str | bytes:
        return name.encode() if kind is bytes else name

    x = pixels(0, 300, 3072)  # more than 256 rows, so that every width of number occurs
    entry = {key("data"): x, key("fine_labels"): labels(300, 100).tolist(), key("filenames"): [key("a.png")] * 300}
    blob = pickle.dumps(entry, protocol=protocol)
    write_files(
        tmp_path / "cifar-100-python",
        {"train": blob, "test": blob, "meta": pickle.dumps({key("fine_label_names"): [key(f"n{k}") for k in range(100)]}, 4)},
    )
    d = load("cifar100", tmp_path)
    assert torch.equal(d.train.x.flatten(1), torch.from_numpy(x))
    assert d.train.y.tolist() == labels(300, 100).tolist()
    assert d.classes[99] == "n99"


@pytest.mark.filterwarnings("ignore:dtype..:")  # numpy about align=0, as Python 2 wrote it
@pytest.mark.parametrize("fortran", [False, True])
def test_the_reader_agrees_with_pickle(fortran: bool) -> None:
    blob = python2_batch(1, 5, b"labels", fortran=fortran)
    ours, theirs = unpickle(blob), pickle.loads(blob, encoding="latin1")
    assert isinstance(ours, dict)
    assert list(ours) == list(theirs)
    array = ours.pop("data")
    assert isinstance(array, Array)
    assert np.array_equal(array.values(), theirs.pop("data"))
    assert ours == theirs


class Call:
    """Pickled as a call of any function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def with_data(value: bytes) -> bytes:
    return python2({b"data": value, b"labels": python2_list([0])})


def hostile(marker: Path) -> dict[str, bytes]:
    """Files that do harm when unpickled; `marker` appears when one of their calls is made."""
    touch = f"touch {marker}"
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    huge = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ\xff\xff\xff\x7f\x85" + python2_text(b"b") + b"\x87R"
    return {
        "posix.system": b"cposix\nsystem\n(" + python2_text(touch.encode()) + b"tR.",
        "os.system, protocol 2": pickle.dumps(Call(os.system, touch), 2),
        "os.system, protocol 4": pickle.dumps({"data": Call(os.system, touch)}, 4),
        "exec": pickle.dumps(Call(exec, code), 2),
        "eval in a list": pickle.dumps({"labels": [Call(eval, code)]}, 4),
        "getattr": pickle.dumps(Call(getattr, "x", "upper"), 4),
        "INST": b"(" + python2_text(touch.encode()) + b"iposix\nsystem\n.",
        "OBJ": b"(cposix\nsystem\n" + python2_text(touch.encode()) + b"o.",
        "NEWOBJ": b"\x80\x02cposix\nsystem\n" + python2_text(touch.encode()) + b"\x85\x81.",
        "numpy's own loader": b"\x80\x02cnumpy\nload\n" + python2_text(b"x") + b"\x85R.",
        "a codec by name": b"\x80\x02c_codecs\nencode\n" + python2_text(b"x") + python2_text(b"rot13") + b"\x86R.",
        "ndarray called": b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85\x85R.",
        "an array of objects": with_data(python2_array(pixels(0, 1, 3072)).replace(b"U\x02u1", b"U\x01O")),
        "an array that is only announced": with_data(huge),
        "an array larger than its bytes": with_data(
            python2_array(pixels(0, 1, 3072)).replace(struct.pack("<i", 1), struct.pack("<i", 2**31 - 1), 1)
        ),
        "a dictionary filled into a name": b"\x80\x02cnumpy\ndtype\n}" + python2_text(b"x") + b"K\x01sb.",
        "a memo with two thousand million places": b"\x80\x02Nr\xff\xff\xff\x7f" + b".",
        "a string of four thousand million bytes": b"\x80\x02T\xff\xff\xff\x7fabc.",
        "bytes of 2^62": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",
        "a bytearray of 2^40": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
        "a frame of 2^62": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b".",
        "a key that takes for ever to hash": b"\x80\x02})" + b"q\x01h\x01\x86" * 200 + b"Ns.",
        "a name that takes for ever to print": b"\x80\x04]" + b"\x94h\x00\x86" * 200 + b"N\x93.",
        "an empty file": b"",
        "no pickle": b"<html>404</html>",
        "a list": pickle.dumps([1, 2], 2),
        "no data": pickle.dumps({"labels": [1]}, 2),
        "labels that are not numbers": python2({b"data": python2_array(pixels(0, 1, 3072)), b"labels": python2_list([b"cat"])}),
        "labels that are not whole": python2({b"data": python2_array(pixels(0, 1, 3072)), b"labels": b"](F0.5\ne"}),
        "rows of another length": python2({b"data": python2_array(pixels(0, 1, 3071)), b"labels": python2_list([0])}),
        "half a file": python2_batch(0, 4, b"labels")[:6000],
    }


@pytest.mark.parametrize("name", hostile(Path("x")))
def test_a_hostile_or_damaged_pickle_is_refused(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    write_files(tmp_path / "cifar-10-batches-py", pickled10() | {"data_batch_3": hostile(marker)[name]})
    with pytest.raises(BadInput, match="cifar-10-batches-py/data_batch_3") as caught:
        load("cifar10", tmp_path)
    assert len(str(caught.value).removeprefix(str(tmp_path))) < 250
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("posix.system", "asks for 'posix system', which no list, dictionary or array needs: refused"),
        ("os.system, protocol 4", "asks for 'posix system'"),
        ("eval in a list", "asks for 'builtins eval'|asks for '__builtin__ eval'"),
        ("INST", "uses the operation INST"),
        ("NEWOBJ", "asks for 'posix system'"),
        ("a codec by name", "makes a call that no list, dictionary or array needs"),
        ("ndarray called", "makes a call that"),
        ("a dictionary filled into a name", "keys are not text|not an array"),
        ("an array of objects", "not a uint8 matrix"),
        ("an array that is only announced", "not a uint8 matrix"),
        ("an array larger than its bytes", "cannot reshape array of size 3072"),
        ("a key that takes for ever to hash", "keys are not text"),
        ("no data", "has no array 'data' with a list of whole numbers 'labels'"),
        ("rows of another length", "rows of 3071 values, not 3072"),
    ],
)
def test_the_line_says_what_was_refused(name: str, line: str, tmp_path: Path) -> None:
    write_files(tmp_path / "cifar-10-batches-py", pickled10() | {"test_batch": hostile(tmp_path / "marker")[name]})
    with pytest.raises(BadInput, match=f"cifar-10-batches-py/test_batch.*({line})"):
        load("cifar10", tmp_path)


def test_the_hostile_files_are_hostile(tmp_path: Path) -> None:
    """Else the test above would show nothing: with Python's own unpickler the marker does appear."""
    for name in ("posix.system", "os.system, protocol 2", "os.system, protocol 4", "exec", "eval in a list", "INST", "OBJ"):
        marker = tmp_path / name.replace(" ", "")
        pickle.loads(hostile(marker)[name], encoding="latin1")
        assert marker.exists(), name


def test_a_pickle_with_endless_operations_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdiga.data.unpickle.MAX_OPERATIONS", 1000)
    with pytest.raises(ValueError, match="more than 1000 operations"):
        unpickle(b"]" * 2000 + b".")


@pytest.mark.parametrize("file", ["data_batch_2.bin", "test_batch.bin"])
def test_a_binary_file_that_is_cut_short_is_named(file: str, tmp_path: Path) -> None:
    files = binary10()
    write_files(tmp_path / "cifar-10-batches-bin", files | {file: files[file][:-1]})
    with pytest.raises(BadInput, match=rf"{file} has 12291 bytes, not a multiple of 3073"):
        load("cifar10", tmp_path)
    (tmp_path / "cifar-10-batches-bin" / file).write_bytes(b"")
    with pytest.raises(BadInput, match=rf"{file} has 0 bytes"):
        load("cifar10", tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    files = binary10()
    del files["data_batch_4.bin"]
    write_files(tmp_path / "cifar-10-batches-bin", files)
    with pytest.raises(
        BadInput, match=r"cifar10 was not found.*cifar-10-batches-bin \(no data_batch_4.bin\).*: put cifar-10-python.tar.gz"
    ):
        load("cifar10", tmp_path)
    write_tar(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", files)
    with pytest.raises(BadInput, match=r"cifar-10-binary.tar.gz has no cifar-10-batches-bin/data_batch_4.bin"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize(("case", "label"), [("binary10", 10), ("pickled10", 10), ("binary100", 100), ("pickled100", 100)])
def test_a_label_outside_the_classes_is_named(case: str, label: int, tmp_path: Path) -> None:
    name, folder, _, files = CASES[case]
    written = files()
    last = list(written)[1]
    if case.startswith("binary"):
        size = 3073 if name == "cifar10" else 3074
        written[last] = written[last][: size - 3073] + bytes([label]) + written[last][size - 3072 :]
    else:
        written[last] = python2_batch(1, 4, b"labels" if name == "cifar10" else b"fine_labels", label)
    write_files(tmp_path / folder, written)
    with pytest.raises(BadInput, match=rf"{last}: label {label} is outside 0 .. {label - 1}"):
        load(name, tmp_path)


@pytest.mark.parametrize("case", ["binary10", "pickled10"])
def test_a_list_of_names_of_another_length_is_refused(case: str, tmp_path: Path) -> None:
    _, folder, _, files = CASES[case]
    meta = {"batches.meta.txt": b"cat\ndog\n", "batches.meta": python2({b"label_names": python2_list([b"cat"])})}
    written = files()
    write_files(tmp_path / folder, {k: meta.get(k, v) for k, v in written.items()})
    with pytest.raises(BadInput, match=r"batches.meta.* does not name 10 classes"):
        load("cifar10", tmp_path)


def test_an_archive_that_is_cut_short_or_no_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    write_tar(path, "cifar-10-batches-bin", binary10())
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-4], b"no gzip", gzip.compress(b"no tar"), b""):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=r"cifar-10-binary.tar.gz"):
            load("cifar10", tmp_path)


def test_an_archive_neither_follows_links_nor_writes_anything(tmp_path: Path) -> None:
    files = binary10()
    secret = tmp_path / "secret"
    secret.write_bytes(files.pop("test_batch.bin"))
    path = tmp_path / "root" / "cifar-10-binary.tar.gz"
    write_tar(path, "cifar-10-batches-bin", files | {"../../escaped": b"x"})
    before = sorted(tmp_path.rglob("*"))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        with gzip.open(path) as old, tarfile.open(fileobj=old) as read:
            members = [(m, read.extractfile(m)) for m in read.getmembers() if m.isreg()]
            with tarfile.open(tmp_path / "new", "w:gz") as archive:
                for member, content in members:
                    archive.addfile(member, content)
                link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
                link.type, link.linkname = kind, str(secret)
                archive.addfile(link)
        (tmp_path / "new").replace(path)
        with pytest.raises(BadInput, match=r"has no cifar-10-batches-bin/test_batch.bin"):
            load("cifar10", tmp_path / "root")
        assert sorted(tmp_path.rglob("*")) == before


def test_an_archive_that_unpacks_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdiga.data.reading.FREE", 2**20)
    write_tar(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", {"data_batch_1.bin": bytes(3073 * 2000)})
    with pytest.raises(BadInput, match=r"cifar-10-binary.tar.gz claims to hold 10\d{5} bytes"):
        load("cifar10", tmp_path)
