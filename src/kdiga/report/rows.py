"""One row per model, and results.json: the same rows for machines."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from kdiga.errors import BadInput
from kdiga.folder import atomic_write

ROLES = ("teacher", "student", "model")
REQUIRED = ("name", "parameters", "clean", "pgd20", "autoattack", "low", "high", "n", "seconds")
COUNTS, FRACTIONS = ("parameters", "n"), ("clean", "fgsm", "pgd20", "autoattack", "low", "high")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is known about one model. Accuracies are fractions; None means not measured. `low` and `high` are the 95 % Wilson
    interval of `autoattack` over `n` images; `seconds` is training time. Raises BadInput for a number outside its range."""

    name: str
    parameters: int
    clean: float
    pgd20: float | None
    autoattack: float | None
    low: float | None
    high: float | None
    n: int
    seconds: float | None
    fgsm: float | None = None
    role: str = "student"
    objective: str | None = None
    spec: str | None = None
    threat: str = ""
    flags: tuple[str, ...] | None = None  # health checks that raised one

    def __post_init__(self) -> None:
        fractions = {name: getattr(self, name) for name in FRACTIONS}
        for name, value in fractions.items():
            if value is not None and not 0 <= value <= 1:
                raise BadInput(f"{self.name}: {name} is {value:g}; accuracies are fractions from 0 to 1")
        if self.role not in ROLES:
            raise BadInput(f"{self.name}: role '{self.role}' is not one of {', '.join(ROLES)}")
        if self.parameters < 0 or self.n < 1 or (self.seconds is not None and not 0 <= self.seconds < float("inf")):
            raise BadInput(f"{self.name}: parameters and seconds must be at least 0, and n, the number of images, at least 1")
        # 1e-6: an accuracy of 0 or 1 and the end of its interval may come from different roundings
        ends = [v for v in (self.low, self.autoattack, self.high) if v is not None]
        if any(a > b + 1e-6 for a, b in pairwise(ends)):
            raise BadInput(f"{self.name}: autoattack {self.autoattack} is not inside its interval, {self.low} to {self.high}")


def write_results(rows: Sequence[Row], path: Path) -> None:
    """results.json: a list with one object per row."""
    atomic_write(path, (json.dumps([asdict(row) for row in rows], indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def read_results(path: Path) -> list[Row]:
    """What `write_results` wrote; keys that a Row does not have are left out. Raises BadInput for anything else."""
    try:
        objects = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}): name a results.json that kdiga wrote") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON ({error}): name a results.json that kdiga wrote") from None
    if not isinstance(objects, list) or not all(isinstance(o, dict) for o in objects):
        raise BadInput(f"{path} must hold a list of objects, one for each model")
    return [_row(o, f"{path}, row {i}") for i, o in enumerate(objects, 1)]


def _row(given: dict[str, Any], where: str) -> Row:
    if missing := [name for name in REQUIRED if name not in given]:
        raise BadInput(f"{where}: {', '.join(missing)} missing")
    values = {f.name: _value(f.name, given[f.name], where) for f in fields(Row) if f.name in given}
    try:
        return Row(**values)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None


def _value(name: str, value: Any, where: str) -> Any:
    """The value as Row wants it, or BadInput; ranges are Row's own business."""
    if name == "flags":
        if value is not None and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise BadInput(f"{where}: flags must be a list of names or null, got {json.dumps(value)[:40]}")
        return value if value is None else tuple(value)
    number = name in FRACTIONS or name == "seconds"
    nullable = name in ("objective", "spec") or (number and name != "clean")
    wanted = "a number" if number else "a whole number" if name in COUNTS else "text"
    kind = (int, float) if number else int if name in COUNTS else str
    if value is None and nullable:
        return None
    fits = isinstance(value, kind) and not isinstance(value, bool)
    if not fits or (kind is not str and not -1e18 < value < 1e18):
        raise BadInput(f"{where}: {name} must be {wanted}{' or null' if nullable else ''}, got {json.dumps(value)[:40]}")
    return float(value) if number else value
