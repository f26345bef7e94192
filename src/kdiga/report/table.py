"""The rows as a table: in a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdiga.report.rows import Row
from kdiga.report.sentence import verdict
from kdiga.report.text import count, duration, interval, percent

if TYPE_CHECKING:  # rich is imported where it is used
    from rich.table import Table

__all__ = ["HEADERS", "caption", "cells", "framed", "markdown", "piped", "terminal", "verdict"]

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
    bold = [row.role == "teacher" for row in rows]
    return framed(HEADERS, [cells(row) for row in rows], bold, title=title, caption=caption(rows))


def framed(headers: Sequence[str], lines: Sequence[Sequence[str]], bold: Sequence[bool], *, title: str, caption: str) -> Table:
    """Lines of text as a rich table, some of them bold; the first column is a name."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # no frame: seven columns and a name fit into 80 characters
    table = Table(title=Text(title), caption=Text(caption), box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for i, header in enumerate(headers):
        table.add_column(header, justify="right" if i else "left", no_wrap=i > 0, overflow="fold")
    for line, strong in zip(lines, bold, strict=True):
        # Text, not str: a name such as "[red]" is not markup
        table.add_row(*(Text(cell) for cell in line), style="bold" if strong else None)
    return table


def markdown(rows: Sequence[Row], remarks: Sequence[str] = ()) -> str:
    """A table in GitHub's Markdown, and under it what was measured, and remarks."""
    return piped(HEADERS, [cells(row) for row in rows]) + f"\n{caption(rows)}\n" + "".join(f"\n{remark}\n" for remark in remarks)


def piped(headers: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Lines of text as a table in GitHub's Markdown; the first column is a name."""
    every = [headers, (":--", *("--:",) * (len(headers) - 1)), *lines]
    escaped = [[" ".join(c.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;") for c in line] for line in every]
    return "".join("| " + " | ".join(line) + " |\n" for line in escaped)
