"""Run folders: what is saved comes back equal, and a stranger's model.json is believed in nothing."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdiga.errors import BadInput
from kdiga.models import Classifier, ModelInfo, build, load, save

GREY = ModelInfo("cnn?width=8&act=silu", 7, (1, 8, 8), (0.1 + 0.2,), (1 / 3,))  # numbers that have no short decimal form


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Classifier, Path]:
    model = build(GREY)
    model(torch.rand(4, 1, 8, 8))  # in training mode: moves the running statistics and counters
    save(model, tmp_path / "run")
    return model.eval(), tmp_path / "run"


def edit(folder: Path, **changes: object) -> None:
    table = json.loads((folder / "model.json").read_text()) | changes
    (folder / "model.json").write_text(json.dumps({k: v for k, v in table.items() if v != "absent"}))


def test_round_trip_is_bit_equal(saved: tuple[Classifier, Path]) -> None:
    model, folder = saved
    again = load(str(folder))
    assert again.info == GREY
    assert not any(m.training for m in again.modules())
    state = again.state_dict()
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize(
    "spec",
    [
        "wrn-10-1",
        "vit-tiny?depth=1&dim=12",
        "timm:tiny_vit_5m_224",
        "torchvision:regnet_x_400mf",
    ],
)
def test_round_trip_of_every_kind(spec: str, tmp_path: Path) -> None:
    model = build(ModelInfo(spec, 3, (3, 32, 32), (0.5,) * 3, (0.2,) * 3)).eval()
    save(model, tmp_path)
    x = torch.rand(1, 3, 32, 32)
    before = torch.get_rng_state()
    assert torch.equal(load(str(tmp_path))(x), model(x))
    assert torch.equal(torch.get_rng_state(), before)  # loading disturbs nobody's random numbers


def test_saving_replaces_and_leaves_nothing_else(saved: tuple[Classifier, Path]) -> None:
    model, folder = saved
    with torch.no_grad():
        model.body.get_parameter("linear.bias").fill_(3.0)
    model.to(memory_format=torch.channels_last)
    save(model, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors"]
    assert (load(str(folder)).body.get_parameter("linear.bias") == 3).all()


def test_a_failed_save_keeps_the_old_files(saved: tuple[Classifier, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = saved
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with torch.no_grad():
        model.body.get_parameter("linear.bias").fill_(3.0)
    with pytest.raises(OSError, match="No space"):
        save(model, folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_the_caller_is_told_when_the_model_is_for_something_else(saved: tuple[Classifier, Path]) -> None:
    folder = str(saved[1])
    assert (
        load(folder, shape=(1, 8, 8), classes=7, mean=(0.9,), std=(0.9,)).info == GREY
    )  # a run folder brings its own normalisation
    with pytest.raises(BadInput, match="takes images of 1x8x8, 3x32x32 was asked for"):
        load(folder, shape=(3, 32, 32), classes=7)
    with pytest.raises(BadInput, match="tells 7 classes apart, 10 were asked for"):
        load(folder, classes=10)
    with pytest.raises(BadInput, match="a run folder takes no options"):
        load(f"{folder}?act=relu")


def test_tied_weights_can_be_saved(saved: tuple[Classifier, Path]) -> None:
    model, folder = saved
    first, last = model.body.get_submodule("stage3.1"), model.body.get_submodule("stage3.4")
    first.weight = last.weight
    save(model, folder)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(load(str(folder))(x), model(x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spec": 3}, "spec must be text, got 3"),
        ({"spec": "absent"}, "spec must be text, but it is absent"),
        ({"classes": "7"}, "classes must be a whole number, got '7'"),
        ({"classes": True}, "classes must be a whole number, got True"),
        ({"classes": 7.0}, "classes must be a whole number, got 7.0"),
        ({"shape": [1, 8]}, r"shape must be three whole numbers, got \[1, 8\]"),
        ({"shape": [1, 8, 10**9]}, "shape 1x8x1000000000 is not supported"),
        ({"mean": 0.5}, "mean must be a list of numbers, got 0.5"),
        ({"mean": ["0.5"]}, "mean must be a list of numbers"),
        ({"std": [0.0]}, "std above 0"),
        ({"std": [float("nan")]}, "std .* must be finite"),
        ({"mean": [0.1, 0.2]}, "1 channels need as many means and stds, got 2 and 1"),
        ({"mean": [0.25]}, "hold different means or stds"),
        ({"spec": "cnn?width=9999"}, "width is 9999, use 1 to 4096"),
        ({"spec": "../cnn"}, "unknown model '../cnn'"),
        # terabytes if they were built: the weights in the file are compared before any memory is taken
        (
            {"spec": "wrn-16-4096"},
            "does not fit wrn-16-4096 with 7 classes and images of 1x8x8: .*missing: conv1.weight, .* unexpected: linear.bias",
        ),
        ({"classes": 100_000}, r"2 of another shape: linear.weight \(file \[7, 32\], model \[100000, 32\]\)"),
    ],
)
def test_a_strangers_model_json(saved: tuple[Classifier, Path], changes: dict[str, object], message: str) -> None:
    edit(saved[1], **changes)
    with pytest.raises(BadInput, match=message):
        load(str(saved[1]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "model.json is not JSON"),
        (b"\xff\xfe", "model.json is not JSON"),
        (b"[1]", "model.json holds no table"),
        (b"[" * 50_000, "model.json is not JSON"),
        (b" " * 200_000, "model.json is not a model.json: larger than 100000 bytes"),
    ],
)
def test_a_model_json_that_is_none(saved: tuple[Classifier, Path], text: bytes, message: str) -> None:
    (saved[1] / "model.json").write_bytes(text)
    with pytest.raises(BadInput, match=message):
        load(str(saved[1]))


def test_what_is_not_there_is_named(saved: tuple[Classifier, Path], tmp_path: Path) -> None:
    folder = saved[1]
    with pytest.raises(BadInput, match=r"there is no folder .*/nowhere"):
        load(str(tmp_path / "nowhere"))
    with pytest.raises(BadInput, match=r"model.json cannot be read: No such file"):
        load(str(tmp_path))
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"model.safetensors cannot be read: No such file"):
        load(str(folder))


def test_pretrained_in_a_model_json_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def network(*_: object, **__: object) -> None:
        raise AssertionError("went to the network")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", network)
    model = build(ModelInfo("timm:test_resnet", 5, (1, 8, 8), (0.0,), (1.0,)))
    save(model, tmp_path)
    edit(tmp_path, spec="timm:test_resnet?pretrained=true")
    assert load(str(tmp_path)).info.spec == "timm:test_resnet"


def test_a_truncated_or_foreign_safetensors_file(saved: tuple[Classifier, Path]) -> None:
    path = saved[1] / "model.safetensors"
    data = path.read_bytes()
    lying = (2**62).to_bytes(8, "little") + data[8:]  # a header that claims to be 4 exabytes long
    for content in (data[: len(data) // 2], data[:20], b"", b"<html>quota exceeded</html>", lying):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=r"model.safetensors is not a whole safetensors file"):
            load(str(saved[1]))


def test_the_file_alone_is_enough_with_its_architecture(saved: tuple[Classifier, Path]) -> None:
    model, folder = saved
    again = load(f"{folder}/model.safetensors?arch=cnn&width=8&act=silu", shape=(1, 8, 8))
    x = torch.rand(2, 1, 8, 8)
    assert again.info.classes == 7
    assert again.info.mean == pytest.approx(GREY.mean, abs=1e-7)
    assert torch.equal(again(x), model(x))


def test_a_folder_without_normalisation_in_its_weights(saved: tuple[Classifier, Path]) -> None:
    model, folder = saved
    state = load_file(folder / "model.safetensors")
    save_file({k.removeprefix("body."): v for k, v in state.items() if k not in ("mean", "std")}, folder / "model.safetensors")
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(load(str(folder))(x), model(x))
