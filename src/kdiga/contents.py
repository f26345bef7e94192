"""What can be named, with one line each: the registries' first docstring lines, and each recipe's first comment; and all about one objective or measure."""

import inspect
import textwrap
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from kdiga.errors import BadInput
from kdiga.options import accepted, choices

GROUPS = {False: "Without a teacher (kdiga teach):", True: "With a teacher (kdiga distill):"}


def contents(kind: str) -> dict[str, str]:
    """`kind` is objectives, attacks, measures, models, datasets or recipes."""
    if kind == "objectives":
        from kdiga.objectives import OBJECTIVES

        return {name: _citation_last(_first(inspect.getmodule(f))) for name, f in OBJECTIVES.items()}
    if kind == "attacks":
        from kdiga.attacks import ATTACKS

        return {name: _first(getattr(f, "func", f)) for name, f in ATTACKS.items()} | {
            "autoattack": "the last four: AutoAttack standard"
        }
    if kind == "measures":
        from kdiga.measures import MEASURES

        return {name: _first(getattr(f, "func", f)) for name, f in MEASURES.items()}
    if kind == "models":
        from kdiga.models import MODELS

        return {name: _first(f) for name, f in MODELS.items()}
    if kind == "datasets":
        from kdiga.data import DATASETS

        return {name: _first(f) for name, f in DATASETS.items()}
    from kdiga.recipe import shipped

    return {name: path.read_text().partition("\n")[0].lstrip("# ") for name, path in shipped().items()}


def listing(kind: str, width: int | None = None) -> str:
    """A line for everything of a kind, wrapped to `width` columns with the names left free; objectives by whether they need a teacher."""
    lines = contents(kind)
    indent = max(map(len, lines), default=0) + 2
    wrapper = textwrap.TextWrapper(width or 10**6, subsequent_indent=" " * indent, break_on_hyphens=False)
    shown = {name: wrapper.fill(f"{name:{indent}}{line}") for name, line in lines.items()}
    if kind != "objectives":
        return "\n".join(shown.values())
    from kdiga.objectives import distils

    groups = [[GROUPS[needs], *(line for name, line in shown.items() if distils(name) is needs)] for needs in (False, True)]
    hint = "Formula and options: kdiga list objectives NAME. BibTeX: kdiga cite NAME."
    return "\n\n".join(["\n".join(group) for group in groups] + [hint])


def about(name: str, kind: str = "objectives") -> str:
    """All about an objective or a measure: the header of its file, what it returns, its options with their defaults and the values they accept."""
    from kdiga import measures, objectives

    functions: Mapping[str, Callable[..., object]] = measures.MEASURES if kind == "measures" else objectives.OBJECTIVES
    hidden = measures.GIVEN if kind == "measures" else objectives.GIVEN
    if name not in functions:
        raise BadInput(f"unknown {kind[:-1]} '{name}': {choices(name, functions)}")
    function = functions[name]
    hints = get_type_hints(function, include_extras=True)
    rows = [(p.name, _word(p.default), _values(hints[p.name])) for p in accepted(function, hidden=hidden).values()]
    left, middle = (max((len(row[i]) for row in rows), default=0) for i in (0, 1))
    options = [f"  {option:{left}}  {default:{middle}}  {values}" for option, default, values in rows]
    table = "\n".join(["Options, their defaults and what they may be (--set NAME=VALUE):", *options]) if rows else "No options."
    return "\n\n".join([inspect.getdoc(inspect.getmodule(function)) or "", inspect.getdoc(function) or "", table])


def _first(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _citation_last(line: str) -> str:
    """`Madry et al. 2018, arXiv 1706.06083: adversarial training.` with what it is in front; a line without a colon as it is."""
    source, _, what = line.removesuffix(".").partition(": ")
    return f"{what}; {source}" if what else source


def _word(value: object) -> str:
    """A default as `--set` takes it."""
    if isinstance(value, tuple):
        return ",".join(map(_word, value))
    return str(value).lower() if isinstance(value, bool | None) else str(value)


def _values(kind: Any) -> str:
    """What an option of the annotation `kind` may be, in words."""
    if get_origin(kind) in (Union, UnionType):
        return ", or ".join(map(_values, get_args(kind)))
    if get_origin(kind) is Annotated:
        number, domain = get_args(kind)
        return f"{_values(number)}, {domain}"
    if get_origin(kind) is Literal:
        return " or ".join(map(_word, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"{_values(get_args(kind)[0])}s, comma-separated"
    words: dict[Any, str] = {float: "number", int: "whole number", bool: "true or false", str: "a name", NoneType: "none"}
    return words[kind]
