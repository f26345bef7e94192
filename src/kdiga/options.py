"""Options by name: a recipe, a `--set` or a model spec gives names and values, a function's keyword-only parameters say what is accepted."""

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from math import inf, isfinite
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from kdiga.errors import BadInput


@dataclass(frozen=True)
class Domain:
    """The numbers from `low` to `high` that an option may be; `open` leaves `low` itself out."""

    low: float = 0.0
    high: float = inf
    open: bool = False

    def __contains__(self, value: int | float) -> bool:
        return self.low <= value <= self.high and not (self.open and value == self.low)

    def __str__(self) -> str:
        if self.high < inf:
            return f"{'above' if self.open else 'from'} {self.low:g} {'and at most' if self.open else 'to'} {self.high:g}"
        return f"{'above' if self.open else 'at least'} {self.low:g}"


Weight = Annotated[float, Domain()]  # at least 0
Positive = Annotated[float, Domain(open=True)]
Share = Annotated[float, Domain(high=1.0)]  # from 0 to 1
Count = Annotated[int, Domain(low=1.0)]


def accepted(function: Callable[..., object], *, hidden: Collection[str] = ()) -> dict[str, inspect.Parameter]:
    """A function's options: its keyword-only parameters, less those that the caller fills in itself."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in hidden}


def convert(function: Callable[..., object], options: Mapping[str, object], *, hidden: Collection[str] = ()) -> dict[str, Any]:
    """The options with values of the declared types; text is read as a number or truth value where one is declared.

    Raises BadInput for a name that is not accepted (the accepted ones are listed), for a value of another type and for a number
    outside the option's Domain.
    """
    names, hints = accepted(function, hidden=hidden), get_type_hints(function, include_extras=True)
    for name in options:
        if name not in names:
            raise BadInput(f"{function.__name__} has no option '{name}': {choices(name, names)}")
    return {name: _value(value, hints[name], f"{function.__name__}: option {name}") for name, value in options.items()}


def choices(name: str, known: Iterable[str]) -> str:
    """The end of an error line: the closest known name, then all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}accepted: {', '.join(known)}" if known else "none are accepted"


def _value(value: object, kind: Any, where: str) -> Any:
    """`value` as an instance of the annotation `kind`, or BadInput."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if NoneType in kinds and value in (None, "none"):
        return None
    kind = next(k for k in kinds if k is not NoneType)
    if get_origin(kind) is Annotated:
        kind, domain = get_args(kind)
        number = _value(value, kind, where)
        if number not in domain:
            raise BadInput(f"{where} is {value!r}: it must be {domain}")
        return number
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        raise BadInput(f"{where} is {value!r}: use {' or '.join(map(repr, get_args(kind)))}")
    if get_origin(kind) is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if isinstance(items, list | tuple):
            return tuple(_value(item, get_args(kind)[0], where) for item in items)
    elif kind is bool and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    elif kind is str and isinstance(value, str):
        return value
    elif (kind is float and isinstance(value, float | int | str)) or (kind is int and isinstance(value, int | str)):
        try:
            if not isinstance(value, bool) and isfinite(kind(value)):
                return kind(value)
        except (ValueError, OverflowError):
            pass
    raise BadInput(f"{where} is {value!r}: {getattr(kind, '__name__', kind)} expected")
