"""timm's own weights, with the download replaced by a file."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from kdiga.errors import BadInput
from kdiga.models import build, load

SPEC = "timm:test_vit.r160_in1k?pretrained=true"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    state: dict[str, torch.Tensor] = timm.create_model("test_vit", pretrained=False).state_dict()
    save_file(state, tmp_path / "model.safetensors")
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda *_, **__: str(tmp_path / "model.safetensors"))
    return state


def test_weights_and_normalisation_are_timms(cached: dict[str, torch.Tensor]) -> None:
    model = load(SPEC, shape=(3, 160, 160), classes=1000, mean=(0.9,) * 3, std=(0.9,) * 3)
    assert all(torch.equal(v, cached[k]) for k, v in model.body.state_dict().items())
    assert (model.info.mean, model.info.std) == ((0.5,) * 3, (0.5,) * 3)


def test_another_task_keeps_the_trunk_and_draws_a_head(cached: dict[str, torch.Tensor]) -> None:
    model = load(SPEC, shape=(1, 160, 160), classes=10)
    assert model.body.get_parameter("head.weight").shape == (10, 64)
    assert torch.equal(model.body.get_parameter("blocks.0.mlp.fc1.weight"), cached["blocks.0.mlp.fc1.weight"])
    assert model.info.mean == (0.5,)


def test_build_keeps_the_callers_normalisation(cached: dict[str, torch.Tensor]) -> None:
    info = load(SPEC, shape=(3, 160, 160), classes=10).info
    model = build(info)
    assert torch.equal(model.body.get_parameter("cls_token"), cached["cls_token"])


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise ConnectionError("no route to the hub\nsecond line")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", offline)
    with pytest.raises(BadInput, match=r"^timm:test_vit.r160_in1k cannot be built: no route to the hub$"):
        load(SPEC, shape=(3, 160, 160), classes=1000)


def test_a_timm_checkpoint_says_its_classes_and_channels(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=6, in_chans=2).state_dict()
    torch.save(
        {"state_dict": state, "state_dict_ema": state, "version": 2, "arch": "test_resnet", "metric": 1.0},
        tmp_path / "model_best.pth.tar",
    )
    info = load(f"{tmp_path}/model_best.pth.tar?arch=timm:test_resnet&act=silu", shape=(2, 32, 32)).info
    assert (info.spec, info.classes) == ("timm:test_resnet?act=silu", 6)
    with pytest.raises(BadInput, match="takes images of 2x32x32, 3x32x32 was asked for"):
        load(f"{tmp_path}/model_best.pth.tar?arch=timm:test_resnet", shape=(3, 32, 32))
