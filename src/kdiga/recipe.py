"""Recipes: a TOML file, the command line's flags and `--set` become one frozen value, checked before anything is written."""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdiga.attacks import expand
from kdiga.errors import BadInput
from kdiga.objectives import GIVEN, OBJECTIVES
from kdiga.options import accepted, choices, convert
from kdiga.train import Settings
from kdiga.types import Objective, Terms, Threat

# Where the field measures, or, on the small sets, where undefended models break and robust ones do not.
EPS = {"digits": "0.2", "mnist": "0.3", "fashion-mnist": "0.1"}
TOP = ("data", "model", "teacher", "standard_teacher", "seed")


@dataclass(frozen=True, kw_only=True)
class Testing:
    """What is measured on the test set when training has ended."""

    attacks: tuple[str, ...] = ("fgsm", "pgd20", "autoattack")
    n: int = 1000  # test images, a fixed stratified choice
    attack_batch: int = 256

    def __post_init__(self) -> None:
        expand(self.attacks)
        if self.n < 1 or self.attack_batch < 1:
            raise BadInput(
                f"the number of test images and the attack's batch size must be at least 1, got {self.n} and {self.attack_batch}"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run. `model` is the network that is trained; `teacher` is None for objectives without one; `standard_teacher`
    is a second one, trained without attacks, for those that ask for it."""

    data: str
    model: str
    teacher: str | None
    standard_teacher: str | None = None
    seed: int
    threat: Threat
    objective: str
    options: dict[str, Any] = field(default_factory=dict)
    train: Settings
    evaluate: Testing

    def bound(self, *, standard_teacher: nn.Module | None = None, memory: dict[str, Tensor] | None = None) -> Objective:
        """The objective with its options and what it asks for of the threat, the second teacher and the memory: what the training loop calls."""
        given = {"threat": self.threat, "standard_teacher": standard_teacher, "memory": {} if memory is None else memory}
        bound: Objective = partial(
            self.function, **self.options, **{k: v for k, v in given.items() if k in accepted(self.function)}
        )
        return bound

    @property
    def function(self) -> Callable[..., Terms]:
        """The objective, without its options."""
        return OBJECTIVES[self.objective]

    def option(self, name: str, otherwise: Any) -> Any:
        """The value of one of the objective's options, `otherwise` where it has none of that name."""
        declared = accepted(self.function, hidden=GIVEN)
        return self.options.get(name, declared[name].default) if name in declared else otherwise

    def toml(self) -> str:
        """The resolved recipe, every value written out; `resolve` reads it back to an equal one."""
        top = {k: getattr(self, k) for k in TOP if getattr(self, k) is not None}
        sections: dict[str, Mapping[str, object]] = {
            "threat": {"norm": "linf" if self.threat.norm == inf else "l2", "eps": self.threat.eps},
            "objective": {"name": self.objective} | self.options,
            "train": asdict(self.train),
            "evaluate": asdict(self.evaluate),
        }
        blocks = [_lines(top)] + [f"[{name}]\n{_lines(values)}" for name, values in sections.items()]
        return "\n".join(blocks)


def read(path: str | None) -> dict[str, Any]:
    """A recipe file's table; a name without a file (`fashion-kd`) means one of the recipes that ship with kdiga."""
    if path is None:
        return {}
    found = Path(path) if Path(path).exists() else shipped().get(path.removesuffix(".toml"))
    if found is None:
        raise BadInput(f"recipe '{path}' does not exist, and none of that name ships with kdiga: {choices(path, shipped())}")
    try:
        return tomllib.loads(found.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{found} is not a TOML file: {error}") from None
    except OSError as error:
        raise BadInput(f"{found} cannot be read: {error.strerror}") from None


def shipped() -> dict[str, Path]:
    """The recipes that come with kdiga, by name."""
    here = Path(__file__).parent
    folder = next(f for f in (here / "recipes", here.parents[1] / "recipes") if f.is_dir())
    return {p.stem: p for p in sorted(folder.glob("*.toml"))}


def resolve(table: Mapping[str, Any], *, flags: Mapping[str, object] | None = None, sets: Sequence[str] = ()) -> Recipe:
    """The recipe that a file's table, then `flags`, then `key=value` texts describe; what none of them says takes its default.

    Flags and sets name a value by its key alone (`epochs`) or with its section (`train.epochs`). Raises BadInput for an unknown section,
    key, objective or attack, listing what is accepted, and for values of the wrong type.
    """
    if "methods" in table:
        raise BadInput("this recipe has several methods: run it with `kdiga compare-methods`")
    flat = _flatten(table)
    changes = {k: v for k, v in (flags or {}).items() if v is not None}
    changes |= dict(assignment(text) for text in sets)
    changes = {"objective" if k in ("objective.name", "name") else k: v for k, v in changes.items()}
    objective = str(changes.get("objective", flat.get("objective.name", "pgd_at")))
    if objective not in OBJECTIVES:
        raise BadInput(f"unknown objective '{objective}': {choices(objective, OBJECTIVES)}")
    options = accepted(OBJECTIVES[objective], hidden=GIVEN)
    known = _keys(options)
    if flat.get("objective.name", objective) != objective:  # another objective than the file's: its options do not carry over
        flat = {k: v for k, v in flat.items() if not k.startswith("objective.")}
    flat |= {_place(k, known): v for k, v in changes.items() if k != "objective"} | {"objective.name": objective}
    for key in flat:
        if key not in known:
            section, _, name = key.rpartition(".")
            siblings = [k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == section] or [
                "threat",
                "objective",
                "train",
                "evaluate",
            ]
            where = f"objective {objective}" if section == "objective" else f"[{section}]" if section else "a recipe"
            raise BadInput(f"{where} has no option '{name or key}': {choices(name or key, siblings)}")

    def part(section: str) -> dict[str, Any]:
        return {k.removeprefix(f"{section}."): v for k, v in flat.items() if k.startswith(f"{section}.") and k != "objective.name"}

    top = convert(_top, {k: flat[k] for k in TOP if k in flat})
    seed = top.get("seed", 0)
    if not 0 <= seed < 2**32:
        raise BadInput(f"seed is {seed}: it must be at least 0 and below 2**32")
    return Recipe(
        data=top.get("data", "digits"),
        model=_anchored(top.get("model", "cnn")),
        teacher=_anchored(top["teacher"]) if top.get("teacher") is not None else None,
        standard_teacher=_anchored(top["standard_teacher"]) if top.get("standard_teacher") is not None else None,
        seed=seed,
        threat=threat_for(top.get("data", "digits"), **part("threat")),
        objective=objective,
        options=convert(OBJECTIVES[objective], part("objective"), hidden=GIVEN),
        train=_anchored_extra(Settings(**convert(Settings, part("train")))),
        evaluate=Testing(**convert(Testing, part("evaluate"))),
    )


def threat_for(data: str, norm: object = None, eps: object = None) -> Threat:
    """The threat that `norm` (l-inf if not said) and `eps` describe; for l-inf eps has a default for each data set."""
    norm = "linf" if norm is None else str(norm)
    if eps is None and norm.lower() == "l2":
        raise BadInput("l2 has no default eps: give one, in image units (0.5 is usual on CIFAR-10)")
    return Threat.parse(norm, EPS.get(data, "8/255") if eps is None else str(eps))


def _anchored(spec: str) -> str:
    """A spec that names an existing file or folder, with its whole path: a run can then be resumed and compared from anywhere."""
    path, mark, options = spec.partition("?")
    return f"{Path(path).resolve()}{mark}{options}" if "/" in path and Path(path).exists() else spec


def _anchored_extra(train: Settings) -> Settings:
    return train if train.extra is None else replace(train, extra=_anchored(train.extra.removeprefix("npz:")))


def _top(*, data: str, model: str, teacher: str | None, standard_teacher: str | None, seed: int) -> None:
    """The keys before the first section, with their types."""


def _keys(options: Mapping[str, object]) -> tuple[str, ...]:
    """Every key a recipe may have, with its section."""
    sections = {"threat": ("norm", "eps"), "objective": ("name", *options)}
    sections |= {"train": tuple(f.name for f in fields(Settings)), "evaluate": tuple(f.name for f in fields(Testing))}
    return (*TOP, *(f"{section}.{name}" for section, names in sections.items() for name in names))


def _flatten(table: Mapping[str, Any]) -> dict[str, Any]:
    """{"train": {"epochs": 3}} -> {"train.epochs": 3}; `student` is another word for `model`, for recipes that have a teacher."""
    table = dict(table)
    if "student" in table:
        if "model" in table:
            raise BadInput("a recipe names either `model` or `student`, which mean the same network, not both")
        table["model"] = table.pop("student")
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _place(key: str, known: Sequence[str]) -> str:
    """A key that a flag or `--set` gives, with its section."""
    if key in known:
        return key
    key = "model" if key == "student" else key
    places = [k for k in known if k.rpartition(".")[2] == key]
    if not places:
        raise BadInput(f"there is no option '{key}': {choices(key, [k.rpartition('.')[2] for k in known])}")
    return places[0]


def assignment(text: str) -> tuple[str, object]:
    """`key=value`, the value read as TOML where it is TOML and as text otherwise."""
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise BadInput(f"--set {text} is not of the form key=value")
    try:
        return key.strip(), tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _lines(values: Mapping[str, object]) -> str:
    """TOML for scalars and lists: as JSON writes them, but for DEL, which TOML wants escaped, and None, which it has no word for."""
    text = {k: json.dumps("none" if v is None else v, ensure_ascii=False).replace("\x7f", "\\u007f") for k, v in values.items()}
    return "".join(f"{k} = {v}\n" for k, v in text.items())
