"""The rows as a table: in a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdiga.report.rows import Row
from kdiga.report.sentence import verdict
from kdiga.report.text import count, duration, interval, percent

if TYPE_CHECKING:  # rich is imported where it is used
    from rich.table import Table

__all__ = ["HEADERS", "caption", "cells", "markdown", "terminal", "verdict"]

HEADERS = ("model", "parameters", "clean", "PGD-20", "AutoAttack", "95 % interval", "training")


def cells(row: Row) -> tuple[str, ...]:
    """The row as text, in the order of HEADERS."""
    numbers = (percent(row.clean), percent(row.pgd20), percent(row.autoattack), interval(row.low, row.high))
    return (row.name, count(row.parameters), *numbers, duration(row.seconds))


def caption(rows: Sequence[Row]) -> str:
    """What the numbers were measured on."""
    threats, sizes = sorted({r.threat for r in rows if r.threat}), sorted({r.n for r in rows})
    images = f"{sizes[0]} images" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} images" if sizes else ""
    return ", ".join(part for part in (*threats, images) if part)


def terminal(rows: Sequence[Row], title: str) -> Table:
    """A table for `rich.console.Console.print`."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # no frame: seven columns and a name fit into 80 characters
    table = Table(title=Text(title), caption=Text(caption(rows)), box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for i, header in enumerate(HEADERS):
        table.add_column(header, justify="right" if i else "left", no_wrap=i > 0, overflow="fold")
    for row in rows:
        # Text, not str: a name such as "[red]" is not markup
        table.add_row(*(Text(cell) for cell in cells(row)), style="bold" if row.role == "teacher" else None)
    return table


def markdown(rows: Sequence[Row]) -> str:
    """A table in GitHub's Markdown, and under it what was measured."""
    lines = [HEADERS, (":--", *("--:",) * (len(HEADERS) - 1)), *(cells(row) for row in rows)]
    escaped = [[" ".join(c.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;") for c in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped) + f"\n\n{caption(rows)}\n"
