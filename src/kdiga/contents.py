"""What can be named, with one line each: the registries' first docstring lines, and each recipe's first comment."""

import inspect

from kdiga.options import accepted


def contents(kind: str) -> dict[str, str]:
    """`kind` is objectives, attacks, models, datasets or recipes."""
    if kind == "objectives":
        from kdiga.objectives import OBJECTIVES

        return {name: f"{_first(inspect.getmodule(f))} [{_options(f)}]" for name, f in OBJECTIVES.items()}
    if kind == "attacks":
        from kdiga.attacks import ATTACKS

        return {name: _first(getattr(f, "func", f)) for name, f in ATTACKS.items()} | {
            "autoattack": "the last four: AutoAttack standard"
        }
    if kind == "models":
        from kdiga.models import MODELS

        return {name: _first(f) for name, f in MODELS.items()}
    if kind == "datasets":
        from kdiga.data import DATASETS

        return {name: _first(f) for name, f in DATASETS.items()}
    from kdiga.recipe import shipped

    return {name: path.read_text().partition("\n")[0].lstrip("# ") for name, path in shipped().items()}


def _first(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _options(function: object) -> str:
    assert callable(function)  # noqa: S101 - for the type checker
    return ", ".join(f"{p.name}={p.default}" for p in accepted(function, hidden={"threat"}).values()) or "no options"
