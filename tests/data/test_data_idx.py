"""MNIST's format: what is read, where it is looked for, and files that are not what they say."""

import gzip
import hashlib
import struct
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import URLError

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from published_formats import idx, labels, pixels, write_mnist

from kdiga.data import load, places
from kdiga.data.idx import read_idx
from kdiga.errors import BadInput

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("below", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_all_places_below_a_root_gzipped_or_not(gz: bool, below: str, tmp_path: Path) -> None:
    write_mnist(tmp_path / below, gz=gz)
    d = load("fashion-mnist", tmp_path)
    assert torch.equal(d.train.x[:, 0], torch.from_numpy(pixels(1, 30, 28, 28)))
    assert torch.equal(d.test.x[:, 0], torch.from_numpy(pixels(2, 15, 28, 28)))
    assert torch.equal(d.train.y, torch.from_numpy(labels(30)))
    assert d.classes[9] == "Ankle boot"
    assert (d.crop, d.flip) == (0, True)


def test_a_named_folder_comes_before_files_that_lie_about(tmp_path: Path) -> None:
    write_mnist(tmp_path, n=10)
    write_mnist(tmp_path / "mnist", n=20)
    assert len(load("mnist", tmp_path).train) == 20
    assert len(load("fashion-mnist", tmp_path).train) == 10


def test_without_a_root_the_environment_then_the_system_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDIGA_DATA", str(tmp_path / "mine"))
    monkeypatch.setattr(places, "SYSTEM", tmp_path / "system")
    monkeypatch.setattr("kdiga.data.mnist.SYSTEM", tmp_path / "system")
    write_mnist(tmp_path / "system" / "mnist", n=10)
    assert len(load("mnist").train) == 10
    write_mnist(tmp_path / "mine" / "MNIST" / "raw", n=20)
    assert len(load("mnist").train) == 20


def test_a_root_without_the_files_is_reported_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_download", lambda *_: pytest.fail("a root that was given must not be downloaded into"))
    write_mnist(tmp_path)
    (tmp_path / LABELS).unlink()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInput, match=rf"fashion-mnist was not found.*\(no {LABELS}\).*--root.*dataset-fashion-mnist$"):
        load("fashion-mnist", tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


class Mirror(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """The address at which the files of tmp_path/mirror are served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Mirror, directory=str(tmp_path / "mirror"))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_without_files_torchvision_downloads(mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    write_mnist(tmp_path / "mirror", gz=True)
    files = sorted((tmp_path / "mirror").iterdir())
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("KDIGA_DATA", str(tmp_path / "mine"))
    monkeypatch.setattr(datasets.MNIST, "mirrors", [mirror])
    monkeypatch.setattr(datasets.MNIST, "resources", [(f.name, hashlib.md5(f.read_bytes()).hexdigest()) for f in files])
    assert len(load("mnist").train) == 30
    assert (tmp_path / "mine" / "MNIST" / "raw" / IMAGES).is_file()


def test_a_failed_download_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setenv("KDIGA_DATA", str(tmp_path / "mine"))
    with pytest.raises(
        BadInput, match=r"mnist was not found; looked in .*mine.*\(download failed: .*\): put train-images.*--root"
    ) as caught:
        load("mnist")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


GOOD = idx(pixels(1, 4, 5, 6))
BAD = {
    "ends after 100 bytes of 120": GOOD[:116],
    "ends after 0 bytes of 120": GOOD[:16],
    "goes on after the 120 bytes": GOOD + b"\0",
    "not an idx file of uint8 with 3 axes: it starts with 00000801, not 00000803": idx(pixels(1, 4)),
    "it starts with 00000d03": b"\0\0\x0d\x03" + GOOD[4:],
    "it starts with ,": b"",
    "holds nothing: its header gives the shape": idx(pixels(1, 0, 5, 6)),
    "claims to hold 2000000000 bytes of images in": b"\0\0\x08\x03" + struct.pack(">3I", 2000, 1000, 1000),
}


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("line", list(BAD))
def test_a_damaged_file_is_named(line: str, gz: bool, tmp_path: Path) -> None:
    content = BAD[line]
    (tmp_path / "some-file").write_bytes(gzip.compress(content) if gz else content)
    with pytest.raises(BadInput, match=f"some-file.*{line}"):
        read_idx(tmp_path / "some-file", 3)


def test_a_gzip_stream_that_is_cut_short_is_named(tmp_path: Path) -> None:
    (tmp_path / "some-file.gz").write_bytes(gzip.compress(GOOD)[:-20])
    with pytest.raises(BadInput, match=r"some-file.gz cannot be read as an idx file: Compressed file ended"):
        read_idx(tmp_path / "some-file.gz", 3)


def test_a_header_that_claims_more_than_memory_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(b"\0\0\x08\x03" + b"\xff" * 12 + bytes(1000))
    began = time.perf_counter()
    with pytest.raises(BadInput, match=r"bomb claims to hold \d+ bytes of images in 1016 bytes on disk"):
        read_idx(tmp_path / "bomb", 3)
    assert time.perf_counter() - began < 1


def test_labels_and_lengths_are_checked(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / LABELS).write_bytes(idx(labels(29).astype("uint8")))
    with pytest.raises(BadInput, match=f"{LABELS}: 30 images but 29 labels"):
        load("mnist", tmp_path)
    (tmp_path / LABELS).write_bytes(idx(labels(30, 11).astype("uint8")))
    with pytest.raises(BadInput, match=f"{LABELS}: label 10 is outside 0 .. 9"):
        load("mnist", tmp_path)


@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=60), start=st.sampled_from([b"", GOOD[:4], GOOD[:16], b"\x1f\x8b\x08\x00", gzip.compress(GOOD)]))
@example(content=b"\0" * 12, start=GOOD[:4])
@example(content=b"\0\0\0\1" * 3 + b"7", start=GOOD[:4])
def test_no_bytes_make_the_reader_fail_otherwise(tmp_path_factory: pytest.TempPathFactory, content: bytes, start: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz"
    path.write_bytes(start + content)
    try:
        values = read_idx(path, 3)
    except BadInput as e:
        line = str(e)
    else:
        assert values.ndim == 3
        line = f"fuzz holds {values.numel()} values"
    assert "fuzz" in line
    assert "\n" not in line
