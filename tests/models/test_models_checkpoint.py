"""Checkpoints that others published: their layouts, and files that are damaged or mean harm."""

import argparse
import os
import pickle
import zipfile
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pyautoattack
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from kdiga.errors import BadInput
from kdiga.models import ModelInfo, build, load

PUBLISHED = Path(pyautoattack.__file__).parent / "examples"
State = dict[str, Tensor]


def fresh(spec: str = "wrn-10-1", classes: int = 10, channels: int = 3) -> State:
    torch.manual_seed(1)
    return build(ModelInfo(spec, classes, (channels, 32, 32), (0.0,) * channels, (1.0,) * channels)).body.state_dict()


def same(path: Path, state: State, options: str = "") -> None:
    loaded = load(f"{path}?arch=wrn-10-1{options}").body.state_dict()
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[k], v) for k, v in state.items())


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="pyautoattack without its examples")
def test_a_published_checkpoint_gives_the_published_network() -> None:
    # CIFAR-10 ResNet-18, saved on a GPU in PyTorch's old format; their own definition of the network is the other implementation
    path = PUBLISHED / "model_test.pt"
    model = load(f"{path}?arch=resnet-18")
    assert model.info == ModelInfo("resnet-18", 10, (3, 32, 32), (0.0,) * 3, (1.0,) * 3)
    spec = spec_from_file_location("published_resnet", PUBLISHED / "resnet.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    theirs = module.ResNet18()
    theirs.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(model(x), theirs.eval()(x), atol=1e-5)
    with pytest.raises(BadInput, match=r"model_test.pt tells 10 classes apart, 100 were asked for"):
        load(f"{path}?arch=resnet-18", classes=100)


LAYOUTS: list[Callable[[State], Any]] = [
    lambda s: s,
    lambda s: {f"module.{k}": v for k, v in s.items()},
    lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
    lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "epoch": 3},
    lambda s: {"net": s, "acc": 93.1, "epoch": 3},
    lambda s: {"model": s, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
    lambda s: {"model_state_dict": s, "unaveraged_model_state_dict": {k: v * 0 for k, v in s.items()}},
    lambda s: {"state_dict": s, "state_dict_ema": {k: v * 0 for k, v in s.items()}},
    lambda s: {"state_dict_ema": s, "arch": "wrn"},
    lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
    lambda s: s | {f"sub_block1.{k}": v for k, v in s.items()},  # TRADES
    lambda s: {k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("zipped", [True, False])
def test_layouts(layout: Callable[[State], Any], zipped: bool, tmp_path: Path) -> None:
    state = fresh()
    torch.save(layout(state), tmp_path / "last.pth.tar", _use_new_zipfile_serialization=zipped)
    same(tmp_path / "last.pth.tar", state)


def test_a_key_can_be_named(tmp_path: Path) -> None:
    state = fresh()
    torch.save({"state_dict": {k: v * 0 for k, v in state.items()}, "swa": state}, tmp_path / "a.ckpt")
    same(tmp_path / "a.ckpt", state, "&weights=swa")
    with pytest.raises(BadInput, match=r"a.ckpt has no state dict under 'ema': its keys are state_dict, swa"):
        load(f"{tmp_path}/a.ckpt?arch=wrn-10-1&weights=ema")


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (("mu", "sigma"), ""),
        (("mean", "std"), "module."),
        (("normalize.mean", "normalize.std"), "model."),
        (("0.mean", "0.std"), "1."),
        (("normalizer.new_mean", "normalizer.new_std"), "model."),
    ],
)
def test_normalisation_in_the_file_is_used(names: tuple[str, str], prefix: str, tmp_path: Path) -> None:
    mean, std = (0.5, 0.25, 0.125), (0.75, 0.5, 0.25)
    shared = (
        prefix if prefix == "module." else ""
    )  # a wrapper around all of it; the others name the network beside its normalisation
    state = {shared + n: torch.tensor(v)[None, :, None, None] for n, v in zip(names, (mean, std), strict=True)}
    save_file(state | {prefix + k: v for k, v in fresh().items()}, tmp_path / "a.safetensors")
    info = load(f"{tmp_path}/a.safetensors?arch=wrn-10-1", mean=(0.0,) * 3, std=(1.0,) * 3).info  # not the argument
    assert (info.mean, info.std) == (mean, std)
    assert load(f"{tmp_path}/a.safetensors?arch=wrn-10-1&mean=0.5&std=0.5,0.25,1").info.std == (0.5, 0.25, 1.0)


def test_normalisation_from_elsewhere(tmp_path: Path) -> None:
    torch.save(fresh(), tmp_path / "a.pt")
    spec = f"{tmp_path}/a.pt?arch=wrn-10-1"
    assert load(spec).info.mean == (0.0, 0.0, 0.0)
    assert load(spec, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0)).info.std == (
        1.0,
        1.0,
        1.0,
    )  # what a file does not say is not guessed
    for wrong in (f"{spec}&mean=0.5", f"{spec}&std=0.5"):
        with pytest.raises(BadInput, match="mean and std belong together"):
            load(wrong)
    with pytest.raises(BadInput, match="mean and std belong together"):
        load(spec, mean=(0.5,) * 3)
    with pytest.raises(BadInput, match="option mean is 'half': float expected"):
        load(f"{spec}&mean=half&std=1")
    torch.save(fresh() | {"mu": torch.zeros(3)}, tmp_path / "b.pt")
    with pytest.raises(BadInput, match=r"holds a normalisation in part or twice \(mu\)"):
        load(f"{tmp_path}/b.pt?arch=wrn-10-1")


def test_sizes_are_read_off_the_weights(tmp_path: Path) -> None:
    torch.save(fresh("resnet-18", classes=17, channels=2), tmp_path / "a.pt")
    assert load(f"{tmp_path}/a.pt?arch=resnet-18").info.shape == (2, 32, 32)
    info = load(f"{tmp_path}/a.pt?arch=resnet-18&act=silu", shape=(2, 28, 28)).info
    assert (info.spec, info.classes, info.shape) == ("resnet-18?act=silu", 17, (2, 28, 28))
    with pytest.raises(BadInput, match=r"a.pt takes images of 2x28x28, 3x28x28 was asked for"):
        load(f"{tmp_path}/a.pt?arch=resnet-18", shape=(3, 28, 28))
    torch.save(fresh("cnn"), tmp_path / "cnn.pt")  # its strides depend on the image size, so none may be assumed
    with pytest.raises(BadInput, match=r"cnn.pt does not say for what it was trained: give shape="):
        load(f"{tmp_path}/cnn.pt?arch=cnn")


def test_a_mismatch_names_the_first_of_each_kind(tmp_path: Path) -> None:
    state = fresh()
    state["extra.a"] = state.pop("bn1.bias")
    state["conv1.weight"] = state["conv1.weight"][:, :, :1]
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(
        BadInput,
        match=r"a.pt does not fit wrn-10-1 with 10 classes.*: 1 missing: bn1.bias; 1 unexpected: extra.a; 1 of another shape: conv1.weight \(file \[16, 3, 1, 3\], model \[16, 3, 3, 3\]\)$",
    ):
        load(f"{tmp_path}/a.pt?arch=wrn-10-1")
    state = {k: v for k, v in fresh("wrn-16-1").items() if ".layer.1.bn" not in k}
    torch.save(state, tmp_path / "b.pt")
    with pytest.raises(BadInput, match=r"24 missing: block1.layer.1.bn1.weight, [\w.]+, [\w.]+ \.\.\.$"):
        load(f"{tmp_path}/b.pt?arch=wrn-16-1")


def test_a_prefix_that_only_some_names_have_stays(tmp_path: Path) -> None:
    state = fresh()
    torch.save(state | {"model.fc.bias": torch.full((10,), 9.0)}, tmp_path / "a.pt")
    with pytest.raises(BadInput, match=r": 1 unexpected: model.fc.bias$"):
        load(f"{tmp_path}/a.pt?arch=wrn-10-1")


def test_what_must_be_said_is_asked_for(tmp_path: Path) -> None:
    torch.save(fresh(), tmp_path / "a.pt")
    for spec, message in (
        (f"{tmp_path}/a.pt", r"a.pt holds weights alone: say which architecture, .*a.pt\?arch=NAME, one of cnn, resnet-18"),
        (f"{tmp_path}/a.pt?arch=resnet18", "unknown model 'resnet18': did you mean 'resnet-18'"),
        (f"{tmp_path}/a.pt?arch=wrn-10-1&dropout=0.1", "wide_resnet has no option 'dropout': accepted: act"),
        (f"{tmp_path}/b.pt?arch=wrn-10-1", r"b.pt cannot be read: No such file"),
        ("resnet-18", "names an architecture, not weights: say shape="),
    ):
        with pytest.raises(BadInput, match=message):
            load(spec)


class Harm:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("way", ["torch", "torch-old", "pickle"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(way: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "a.pt", tmp_path / "marker"
    if way == "pickle":
        path.write_bytes(pickle.dumps(Harm(marker), protocol=2))
    else:
        torch.save({"state_dict": fresh(), "x": Harm(marker)}, path, _use_new_zipfile_serialization=way == "torch")
    with pytest.raises(BadInput, match=r"a.pt contains Python objects \(posix.system\).*weights_only=False.*weights.pt"):
        load(f"{path}?arch=wrn-10-1")
    assert not marker.exists()
    if way == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()  # the file does harm where it is trusted, so the refusal was what prevented it


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (argparse.Namespace(lr=1), "argparse.Namespace"),
        (np.float64(0.5), "numpy.*scalar"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_more_than_tensors_is_refused_with_the_way_out(thing: object, name: str, tmp_path: Path) -> None:
    torch.save({"state_dict": fresh(), "args": thing}, tmp_path / "a.pt")
    with pytest.raises(BadInput, match=rf"a.pt contains Python objects \({name}\)"):
        load(f"{tmp_path}/a.pt?arch=wrn-10-1")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_and_foreign_files(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(fresh(), path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    for content in (
        data[: len(data) // 2],
        data[:-40],
        data[:30],
        b"",
        b"<html>quota exceeded</html>",
        b"\x80\x02.",
        np.random.default_rng(0).bytes(999),
    ):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=r"a.pt (is not a whole PyTorch checkpoint|holds a)"):
            load(f"{path}?arch=wrn-10-1")


def test_a_zip_that_lies_about_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/data/0", bytes(10_000_000))
    with pytest.raises(BadInput, match=r"a.pt claims 10000004 bytes of records in a file of \d+"):
        load(f"{path}?arch=wrn-10-1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds a Tensor, not a state dict"),
        ([1, 2], "holds a list, not a state dict"),
        ({}, "its keys are none"),
        (
            {"epoch": 3, "lr": 0.1},
            r"no state dict, neither bare nor under state_dict, .*: its keys are epoch, lr; name one by \?weights=",
        ),
        ({"state_dict": {"conv1.weight": torch.zeros(3).to_sparse()}}, "no state dict"),
        ({"conv1.weight": torch.zeros(3, device="meta")}, "no state dict"),
        # a tensor of a terabyte in a file of a kilobyte: refused for its shape, never made
        (
            {"conv1.weight": torch.zeros(1).expand(10**6, 3, 10**6), "fc.weight": torch.zeros(10, 64)},
            r"conv1.weight \(file \[1000000, 3, 1000000\]",
        ),
        (
            {"conv1.weight": torch.zeros(1).expand(10**6, 10**6), "fc.weight": torch.zeros(10, 64)},
            r"a.pt: an image of shape 1000000x32x32",
        ),
        ({"mu": torch.zeros(1).expand(10**12), "sigma": torch.ones(3)}, "a mean or std of 1000000000000 numbers"),
    ],
)
def test_contents_that_are_no_weights(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(BadInput, match=message):
        load(f"{tmp_path}/a.pt?arch=wrn-10-1")
