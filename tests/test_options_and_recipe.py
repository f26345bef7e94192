"""An option is declared once; what a recipe, a flag or a `--set` says ends up there, or is refused with the accepted names."""

import itertools
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdiga import models
from kdiga.errors import BadInput
from kdiga.objectives import GIVEN, OBJECTIVES, needs_teacher
from kdiga.options import Count, Positive, Share, Weight, accepted, convert
from kdiga.recipe import _keys, read, resolve, shipped
from kdiga.types import Batch, Threat


def example(x: int, *, rate: float = 1.0, steps: int = 2, deep: bool = False, kind: Literal["a", "b"] = "a",
            size: float | None = None, marks: tuple[float, ...] = (), weight: Weight = 1.0, share: Share = 0.5,
            length: Positive | None = None, count: Count = 3) -> None:  # fmt: skip
    """Something with options."""


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({"rate": 3}, 3.0),
        ({"rate": "0.5"}, 0.5),
        ({"steps": "7"}, 7),
        ({"deep": "true"}, True),
        ({"deep": False}, False),
        ({"kind": "b"}, "b"),
        ({"size": None}, None),
        ({"size": "none"}, None),
        ({"size": 2}, 2.0),
        ({"marks": [0.5, 1]}, (0.5, 1.0)),
        ({"marks": "0.5,0.75"}, (0.5, 0.75)),
        ({"weight": 0}, 0.0),
        ({"share": "1"}, 1.0),
        ({"length": None}, None),
        ({"length": "1e-9"}, 1e-9),
        ({"count": 1}, 1),
    ],
)
def test_values_take_the_declared_type(given_: dict[str, object], expected: object) -> None:
    (value,) = convert(example, given_).values()
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"rat": 1}, "did you mean 'rate'.*rate, steps, deep"),
        ({"rate": "fast"}, "rate is 'fast': float expected"),
        ({"rate": float("inf")}, "float expected"),
        ({"rate": "nan"}, "float expected"),
        ({"rate": True}, "float expected"),
        ({"steps": 2.5}, "int expected"),
        ({"steps": True}, "int expected"),
        ({"deep": 1}, "bool expected"),
        ({"kind": "c"}, "'a' or 'b'"),
        ({"marks": 3}, "tuple"),
        ({"marks": ["x"]}, "float expected"),
        ({"x": 1}, "no option 'x'"),
        ({"weight": -0.1}, "weight is -0.1: it must be at least 0"),
        ({"share": 1.1}, "share is 1.1: it must be from 0 to 1"),
        ({"length": 0}, "length is 0: it must be above 0"),
        ({"count": "0"}, "count is '0': it must be at least 1"),
        ({"count": 1.5}, "int expected"),
        ({"weight": "nan"}, "float expected"),
    ],
)
def test_other_values_are_refused_with_what_is_accepted(given_: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        convert(example, given_)


def test_a_hidden_option_is_the_callers() -> None:
    with pytest.raises(BadInput, match="no option 'rate'"):
        convert(example, {"rate": 1.0}, hidden={"rate"})


def test_option_names_are_unique_over_a_recipes_sections() -> None:
    for objective in OBJECTIVES.values():
        names = [key.rpartition(".")[2] for key in _keys(accepted(objective, hidden=GIVEN))]
        assert len(names) == len(set(names))


def test_flags_win_over_the_file_and_sets_over_flags() -> None:
    table = {"data": "digits", "seed": 1, "train": {"epochs": 3, "lr": 0.2}, "objective": {"name": "kdiga", "iga_weight": 2}}
    recipe = resolve(
        table, flags={"seed": 5, "eps": "8/255", "student": "cnn?width=4"}, sets=["epochs=9", "train.clip=1", "iga_weight=7"]
    )
    assert (recipe.seed, recipe.train.epochs, recipe.train.lr, recipe.train.clip) == (5, 9, 0.2, 1.0)
    assert recipe.options == {"iga_weight": 7.0}
    assert recipe.threat == Threat.parse("linf", "8/255")
    assert recipe.model == "cnn?width=4"


def test_another_objective_drops_the_files_options() -> None:
    recipe = resolve({"objective": {"name": "kdiga", "iga_weight": 2}}, flags={"objective": "kd"}, sets=["temperature=2"])
    assert recipe.objective == "kd"
    assert recipe.options == {"temperature": 2.0}


@pytest.mark.parametrize(
    ("table", "sets", "said"),
    [
        ({"objective": {"name": "kdgia"}}, [], "unknown objective 'kdgia': did you mean 'kdiga'"),
        ({"objective": {"name": "kd", "iga_weight": 1}}, [], "objective kd has no option 'iga_weight'.*temperature"),
        ({"trian": {"epochs": 1}}, [], "no option"),
        ({"train": {"epoch": 1}}, [], r"\[train\] has no option 'epoch': did you mean 'epochs'"),
        ({"sede": 1}, [], "did you mean 'seed'"),
        ({}, ["epochs=ten"], "epochs is 'ten': int expected"),
        ({}, ["epochs"], "key=value"),
        ({}, ["epocs=1"], "did you mean 'epochs'"),
        ({}, ["epochs=0"], "at least 1"),
        ({}, ["eps=8"], "8/255"),
        ({}, ["attacks=pgd21"], "pgd20"),
        ({}, ["threat.norm=l1"], "linf or l2"),
        ({"model": "cnn", "student": "cnn"}, [], "not both"),
        ({}, ["n=0"], "at least 1"),
        ({}, ["seed=-1"], "at least 0"),
        ({}, ["seed=4294967296"], "below"),
        ({}, ["norm=l2"], "l2 has no default eps"),
        ({}, ["name=kdgia"], "unknown objective"),
        ({"methods": {"kd": {}}}, [], "kdiga compare-methods"),
    ],
)
def test_what_cannot_be_meant_is_refused(table: dict[str, object], sets: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        resolve(table, sets=sets)


@given(st.sampled_from(sorted(OBJECTIVES)), st.integers(1, 500), st.floats(1e-6, 1.0), st.integers(0, 2**31), st.text(max_size=8))
@settings(max_examples=40, deadline=None)
def test_a_resolved_recipe_reads_back_as_itself(objective: str, epochs: int, eps: float, seed: int, model: str) -> None:
    import tomllib

    recipe = resolve(
        {"objective": {"name": objective}, "train": {"epochs": epochs}, "threat": {"eps": eps}, "seed": seed, "model": model}
    )
    assert resolve(tomllib.loads(recipe.toml())) == recipe


@pytest.mark.parametrize("name", sorted(n for n in shipped() if not n.startswith("methods-")))  # those: test_compare_methods.py
def test_every_shipped_recipe_resolves_binds_and_says_how_it_is_run(name: str) -> None:
    recipe = resolve(read(name))
    recipe.bound()
    assert shipped()[name].read_text().startswith("# ")
    assert (recipe.teacher is not None) or not needs_teacher(recipe.objective)
    shape, classes = {"digits": ((1, 8, 8), 10), "fashion-mnist": ((1, 28, 28), 10)}.get(recipe.data, ((3, 32, 32), 10))
    models.load(recipe.model, shape=shape, classes=classes)


CHANGES = [(name, option, p.default) for name, f in OBJECTIVES.items() for option, p in accepted(f, hidden=GIVEN).items()]


# values unlike the default where the rule below gives none that tells: a step too short to cross the ball, a start that is half of it,
# and a share of training that has not been reached
OTHER = {
    "step_size": "0.004",
    "start_noise": "0.05",
    "begin": "0.8",
    "igam.begin": "0.2",
    "ramp": "0.8",
    "base": "trades",
    "igdm.steps": "2",
}
UNUSED = {("free", "replays"), ("mtard", "weight_lr")}  # read by the training loop; moves what is remembered for the next step


@pytest.mark.parametrize(("name", "option", "default"), [c for c in CHANGES if c[:2] not in UNUSED])
def test_every_option_changes_what_its_objective_computes(name: str, option: str, default: object) -> None:
    torch.manual_seed(0)
    student, teacher, standard = (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(36, 3)) for _ in range(3)
    )
    for model in (teacher, standard):
        model.eval().requires_grad_(False)
    batch, found = Batch(torch.rand(4, 1, 5, 5), torch.tensor([0, 1, 2, 0]), torch.arange(4)), []
    # where the attack would else end at the same point, and where the term would not have begun
    base = {"steps": ["step_size=0.04"], "start_noise": ["steps=1"], "random_start": ["steps=1"], "igam_weight": ["begin=0"]}.get(
        option, []
    )
    for sets in (base, [*base, f"{option}={_other(name, option, default)}"]):
        torch.manual_seed(1)
        bound = resolve({}, flags={"objective": name, "eps": "0.1"}, sets=sets).bound(standard_teacher=standard)
        found.append(torch.stack([v.mean() for _, v in sorted(bound(deepcopy(student), teacher, batch, 0.5).items())]).sum())
    assert not torch.allclose(found[0], found[1], rtol=1e-5, atol=1e-9)


def _other(name: str, option: str, default: object) -> str:
    """A value unlike the default."""
    kind = get_type_hints(OBJECTIVES[name])[option]
    for key in (f"{name}.{option}", option):
        if key in OTHER:
            return OTHER[key]
    if get_origin(kind) is Literal:
        return next(str(v) for v in get_args(kind) if v != default)
    if isinstance(default, bool):
        return str(not default).lower()
    if isinstance(default, int):
        return "2" if default == 10 else str(2 * default)
    return str(float(str(default)) / 2 or 0.5)


def test_the_last_word_on_the_objective_wins() -> None:
    for sets in (["objective=kd"], ["name=kd"], ["objective.name=kd"]):
        assert resolve({}, flags={"objective": "kdiga"}, sets=sets).objective == "kd"


def test_a_model_that_exists_is_named_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "t").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    recipe = resolve({"teacher": "runs/t", "model": "cnn?width=4"})
    assert (recipe.teacher, recipe.model) == (str(tmp_path / "runs" / "t"), "cnn?width=4")


def test_missing_and_broken_recipe_files(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        read(str(tmp_path / "none.toml"))
    (tmp_path / "broken.toml").write_text("epochs = = 3")
    with pytest.raises(BadInput, match="not a TOML file"):
        read(str(tmp_path / "broken.toml"))
    (tmp_path / "binary.toml").write_bytes(bytes(range(256)))
    with pytest.raises(BadInput, match="not a TOML file"):
        read(str(tmp_path / "binary.toml"))
    with pytest.raises(BadInput, match="cannot be read"):
        read(str(tmp_path))


def test_each_data_set_has_its_own_default_eps() -> None:
    found = [resolve({"data": name}).threat.eps for name in ("digits", "fashion-mnist", "cifar10")]
    assert found == pytest.approx([0.2, 0.1, 8 / 255])
    for a, b in itertools.combinations(found, 2):
        assert a != b
    assert resolve({"data": "digits"}, flags={"eps": "0.1"}) == replace(
        resolve({"data": "digits"}), threat=Threat.parse("linf", "0.1")
    )
