"""What training can minimise. Each file is one method on one screen; this dict is the contents page.

Every objective is a function (student, teacher, batch, progress, *, options) -> Terms: named, weighted, per-sample loss terms.
An option called `threat` receives the recipe's threat model.
"""

import inspect
from collections.abc import Callable

from kdiga.objectives.ce import ce
from kdiga.objectives.kd import kd
from kdiga.objectives.kdiga import kdiga
from kdiga.objectives.kdiga_author import kdiga_author
from kdiga.objectives.pgd_at import pgd_at
from kdiga.objectives.trades import trades
from kdiga.types import Terms

OBJECTIVES: dict[str, Callable[..., Terms]] = {
    "ce": ce,
    "pgd_at": pgd_at,
    "trades": trades,
    "kd": kd,
    "kdiga": kdiga,
    "kdiga_author": kdiga_author,
}

__all__ = ["OBJECTIVES", "ce", "kd", "kdiga", "kdiga_author", "needs_teacher", "pgd_at", "trades"]


def needs_teacher(objective: str) -> bool:
    """Whether the objective's teacher may not be None: read off its signature."""
    return "None" not in str(inspect.signature(OBJECTIVES[objective]).parameters["teacher"].annotation)
