"""A recipe of several methods: an ordinary recipe with `seeds` and one table [methods.NAME] each, resolved to one Recipe per method and seed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kdiga.errors import BadInput
from kdiga.objectives import needs_teacher
from kdiga.options import accepted, choices
from kdiga.recipe import Recipe, resolve

TAKEN = ("teacher",)  # names of folders beside the methods'
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*")  # a folder's name that no file has


@dataclass(frozen=True)
class Method:
    """A row of the comparison: the same training with every seed."""

    name: str
    runs: Mapping[int, Recipe]  # by seed

    @property
    def recipe(self) -> Recipe:
        """Any one of them: they differ in the seed alone."""
        return next(iter(self.runs.values()))


def methods(
    table: Mapping[str, Any], *, only: Sequence[str] = (), seeds: Sequence[int] = (), sets: Sequence[str] = ()
) -> list[Method]:
    """The methods of a recipe file's table, in its order: those named in `only`, with `seeds`, where these are given.

    A method's keys are those that `--set` takes; `objective` is the method's name where it is not said. `sets` apply to all methods.
    Raises BadInput for what `resolve` refuses and for methods that would not be compared fairly: other data, threat, teachers or tests.
    """
    tables, base = table.get("methods"), {k: v for k, v in table.items() if k not in ("methods", "seeds")}
    if not isinstance(tables, dict) or not tables or not all(isinstance(t, dict) for t in tables.values()):
        raise BadInput("a recipe for compare-methods has a table [methods.NAME] for each method; this one has none")
    if "objective" in base:
        raise BadInput("a recipe for compare-methods has no [objective]: each [methods.NAME] says its own")
    for name in only:
        if name not in tables:
            raise BadInput(f"there is no method '{name}': {choices(name, tables)}")
    chosen = _seeds(seeds or table.get("seeds", (0, 1, 2)))
    found = [_method(name, base, own, chosen, sets) for name, own in tables.items() if not only or name in only]
    for method in found[1:]:
        _alike(found[0], method)
    return found


def _seeds(given: object) -> tuple[int, ...]:
    whole = isinstance(given, list | tuple) and all(type(seed) is int for seed in given)
    if not isinstance(given, list | tuple) or not whole or not given or len(set(given)) < len(given):
        raise BadInput(f"seeds are {given!r}: they must be different whole numbers, as in seeds = [0, 1, 2]")
    return tuple(given)


def _method(name: str, base: Mapping[str, Any], own: Mapping[str, Any], seeds: Sequence[int], sets: Sequence[str]) -> Method:
    if not NAME.fullmatch(name) or name in TAKEN:
        raise BadInput(
            f"'{name}' cannot be a method's name: it is a folder's name, of letters, digits, - + and _, and not 'teacher'"
        )
    objective = own.get("objective", name)
    try:
        runs = {seed: resolve(base, flags={"objective": name, **own, "seed": seed}, sets=sets) for seed in seeds}
    except BadInput as error:
        raise BadInput(f"method {name}: {error}") from None
    for seed, recipe in runs.items():
        if (recipe.seed, recipe.objective) != (seed, objective) or "seed" in own:
            raise BadInput(
                f"method {name}: seed and objective are not for --set to change, nor a method's seed: `seeds` are those of all"
            )
    method = Method(name, runs)
    for asked, needed, key in (
        (method.recipe.teacher, needs_teacher(objective), "teacher"),
        (method.recipe.standard_teacher, "standard_teacher" in accepted(method.recipe.function), "standard_teacher"),
    ):
        if needed and asked is None:
            raise BadInput(f'method {name}: objective {objective} needs a teacher that the recipe does not name: {key} = "MODEL"')
    return method


def _alike(one: Method, other: Method) -> None:
    """Only the student, the objective and how it is trained may differ."""
    for key in ("data", "teacher", "standard_teacher", "threat", "evaluate"):
        here, there = getattr(one.recipe, key), getattr(other.recipe, key)
        if here != there:
            raise BadInput(f"methods {one.name} and {other.name} are not compared alike: {key} is {here} and {there}")
    here, there = one.recipe.train.validation, other.recipe.train.validation
    if here != there:
        raise BadInput(f"methods {one.name} and {other.name} would train on other images: validation is {here} and {there}")


def difference(before: Recipe, now: Recipe) -> str:
    """The first value in which two recipes differ: `train.epochs differs: 1 then, 2 now`."""
    then, changed = _flat(before), _flat(now)
    key = next((k for k in {**changed, **then} if changed.get(k) != then.get(k)), "something")
    return f"{key} differs: {then.get(key)} then, {changed.get(key)} now"


def _flat(recipe: Recipe) -> dict[str, object]:
    """Every value of a recipe by its key."""
    flat: dict[str, object] = {}
    for key, value in asdict(recipe).items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat
