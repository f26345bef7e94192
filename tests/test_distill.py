"""From a recipe to a run folder: what the objective, beyond its options, is given."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from kdiga import data, models
from kdiga.distill import run
from kdiga.errors import BadInput
from kdiga.recipe import Recipe, resolve

QUICK = ["epochs=1", "batch_size=64", "validation=100", "validation_attacked=20", "device=cpu"]


def recipe(*sets: str, **flags: object) -> Recipe:
    return resolve({"data": "digits", "model": "cnn?width=4"}, flags=flags, sets=[*QUICK, *sets])


def trained(out: Path, seed: int) -> Path:
    """A run folder that can be named as a teacher."""
    digits = data.load("digits")
    torch.manual_seed(seed)
    out.mkdir()
    models.save(models.load("cnn?width=4", shape=digits.shape, classes=10, mean=digits.mean, std=digits.std), out)
    return out


def generated(path: Path, n: int = 200, side: int = 8) -> Path:
    rng = np.random.default_rng(0)
    np.savez(path, image=rng.integers(0, 256, (n, side, side, 1), dtype=np.uint8), label=np.arange(n) % 10)
    return path


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in map(json.loads, (out / "log.jsonl").read_text().splitlines()) if "loss" in line]


def test_extra_images_enter_training_and_their_path_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generated(tmp_path / "more.npz")
    monkeypatch.chdir(tmp_path)
    run(recipe(objective="ce"), tmp_path / "without")
    for i, path in enumerate(("./more.npz", f"npz:{tmp_path / 'more.npz'}")):
        run(recipe(f"extra={path}", "extra_fraction=0.5", objective="ce"), tmp_path / f"with{i}")
    assert losses(tmp_path / "with0") == losses(tmp_path / "with1") != losses(tmp_path / "without")
    assert str(tmp_path / "more.npz") in (tmp_path / "with0" / "recipe.toml").read_text()
    run(recipe(f"extra={tmp_path / 'more.npz'}", "extra_fraction=0", objective="ce"), tmp_path / "none")
    assert losses(tmp_path / "none") == losses(tmp_path / "without")


def test_extra_images_must_be_like_the_data(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"extra images must be like those of digits.*\(1, 9, 9\)"):
        run(recipe(f"extra={generated(tmp_path / 'other.npz', side=9)}", objective="ce"), tmp_path / "out")
    with pytest.raises(BadInput, match="does not exist"):
        run(recipe("extra=nowhere.npz", objective="ce"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_second_teacher_is_asked_for_and_used(tmp_path: Path) -> None:
    robust, one, other = (str(trained(tmp_path / str(i), i)) for i in range(3))
    with pytest.raises(BadInput, match=r"mtard distils from a second, standard-trained teacher.*--standard-teacher"):
        run(recipe(objective="mtard", teacher=robust), tmp_path / "out")
    for name, standard in (("a", one), ("b", other)):
        run(recipe("steps=2", objective="mtard", teacher=robust, standard_teacher=standard), tmp_path / name)
    assert losses(tmp_path / "a") != losses(tmp_path / "b")


def test_what_an_objective_remembers_is_in_the_checkpoint(tmp_path: Path) -> None:
    run(recipe(objective="free"), tmp_path / "free")
    saved = load_file(tmp_path / "free" / "checkpoint" / "last.safetensors")
    assert saved["extra/memory/delta"].abs().max() > 0


def test_one_step_training_is_watched(tmp_path: Path) -> None:
    for i, (sets, watched) in enumerate(((["objective=fgsm_rs"], True), (["steps=1"], True), (["steps=2"], False),
                                         (["objective=fgsm_rs", "validation_attacked=0"], False))):  # fmt: skip
        run(recipe(*sets), tmp_path / str(i))
        lines = [json.loads(line) for line in (tmp_path / str(i) / "log.jsonl").read_text().splitlines()]
        assert any("training" in line for line in lines) == watched, sets


@pytest.mark.parametrize(("objective", "options"), [("kdiga", []), ("igam", ["begin=0.9"])])
def test_a_model_without_a_second_derivative_is_refused_before_the_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str, options: list[str]
) -> None:
    """Even where the term that needs one begins late in training."""
    teacher = str(trained(tmp_path / "teacher", 0))
    monkeypatch.setattr(nn.SiLU, "forward", lambda _, x: x * nn.functional.hardsigmoid(x))
    with pytest.raises(BadInput, match=f"{objective} differentiates cnn.*act=silu twice, and it cannot be"):
        run(recipe(*options, objective=objective, teacher=teacher, model="cnn?width=4&act=silu"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
