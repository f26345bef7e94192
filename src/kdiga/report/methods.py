"""One row per method: methods.json, the table in a terminal and in Markdown, and the sentence above it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdiga.errors import BadInput
from kdiga.folder import atomic_write
from kdiga.report.rows import Row
from kdiga.report.table import framed, piped
from kdiga.report.text import count, duration, percent

if TYPE_CHECKING:  # rich is imported where it is used
    from rich.table import Table

HEADERS = ("method", "parameters", "clean", "PGD-20", "AutoAttack", "kept", "p", "cosine", "training", "student passes",
           "teacher passes", "cost")  # fmt: skip
SHOWN = (2, 4, 5, 6, 8, 11)  # of these in a terminal, with the name
JUDGES = {"autoattack": "AutoAttack", "pgd20": "PGD-20", "clean": "clean"}  # what can rank the methods: the first that was measured


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """What is known about one method. Accuracies are means over the seeds, with their standard deviation (None for one seed).

    `ratio` is the student's robust accuracy over the teacher's; `cosine` that of their input gradients at the clean test images, over
    images and seeds; `seconds` the median training time; passes and `flops` are for each image of a training step, `cost` is the flops in
    forwards of the student. `p` belongs to the comparison with the next row. `stopped`: the seeds whose training could not go on; what
    they left is counted, and seeds that left nothing are not in `seeds`. None means not measured."""

    name: str
    objective: str
    seeds: tuple[int, ...]
    parameters: int
    clean: float
    clean_sd: float | None
    pgd20: float | None
    pgd20_sd: float | None
    autoattack: float | None
    autoattack_sd: float | None
    ratio: float | None
    cosine: float | None
    seconds: float | None
    steps: int | None
    student_forwards: float
    student_backwards: float
    teacher_forwards: float
    teacher_backwards: float
    flops: float
    cost: float
    p: float | None
    stopped: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class About:
    """What all rows share. `judge`, one of JUDGES, is the accuracy that ranks the methods and to which p belongs."""

    title: str
    threat: str
    n: int
    judge: str
    provenance: Mapping[str, str]


def write(rows: Sequence[MethodRow], path: Path) -> None:
    """methods.json: a list with one object per method."""
    atomic_write(path, (json.dumps([asdict(row) for row in rows], indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def read(path: Path) -> list[MethodRow]:
    """What `write` wrote. Raises BadInput for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = {f.name for f in fields(MethodRow)}
        values: list[dict[str, Any]] = [
            {k: tuple(v) if isinstance(v, list) else v for k, v in o.items() if k in known} for o in found
        ]
        rows = [MethodRow(**v) for v in values]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} is not a methods.json that kdiga wrote ({type(error).__name__}: {error})") from None
    return rows


def accuracy(row: MethodRow, judge: str) -> float | None:
    """The mean accuracy that ranks the method."""
    value: float | None = getattr(row, judge)
    return value


def spread(mean: float | None, sd: float | None) -> str:
    """`55.8 ± 0.4 %`."""
    return percent(mean) if mean is None or sd is None else f"{100 * mean:.1f} ± {100 * sd:.1f} %"


def chance(p: float | None) -> str:
    """A p-value: three digits at most, none that say nothing."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def passes(forwards: float, backwards: float) -> str:
    """`11 + 11`."""
    return f"{forwards:.4g} + {backwards:.4g}" if forwards or backwards else "–"


def cells(row: MethodRow) -> tuple[str, ...]:
    """The row as text, in the order of HEADERS."""
    name = row.name + (f" ({row.objective})" if row.objective != row.name else "") + (" †" if row.stopped else "")
    return (
        name,
        count(row.parameters),
        spread(row.clean, row.clean_sd),
        spread(row.pgd20, row.pgd20_sd),
        spread(row.autoattack, row.autoattack_sd),
        "–" if row.ratio is None else f"{100 * row.ratio:.0f} %",
        chance(row.p),
        "–" if row.cosine is None else f"{row.cosine:.2f}",
        duration(row.seconds),
        passes(row.student_forwards, row.student_backwards),
        passes(row.teacher_forwards, row.teacher_backwards),
        f"{row.cost:.1f}",
    )


def teacher_cells(teacher: Row) -> tuple[str, ...]:
    """The teacher's row of the same table."""
    accuracies = (percent(teacher.clean), percent(teacher.pgd20), percent(teacher.autoattack))
    return (f"{teacher.name} (teacher)" if "teacher" not in teacher.name else teacher.name, count(teacher.parameters), *accuracies,
            "–", "–", "–", duration(teacher.seconds), "–", "–", "–")  # fmt: skip


def caption(rows: Sequence[MethodRow], about: About) -> list[str]:
    """What the columns are, a sentence or two each."""
    seeds = sorted({seed for row in rows for seed in row.seeds})
    judge = JUDGES[about.judge]
    several = len(seeds) > 1
    listed = ", ".join(str(seed) for seed in seeds)
    said = [
        f"{about.threat}, {about.n} test images, seed{'s' * several} {listed}"
        + ("; mean ± standard deviation over the seeds." if several else "."),
        f"p: two-sided sign-flip permutation test of {judge} accuracy against the row below, over the test images (on each, the share of "
        "seeds that are right; the trained models are taken as they are), not corrected for the number of comparisons.",
        "Kept: AutoAttack accuracy over the teacher's. Cosine: of the student's and the teacher's input gradients of the cross-entropy at the clean test images. Training: median seconds.",
        "Passes: forwards + backwards for each image of a training step; cost: floating point operations of a step in forwards of the student.",
    ]
    if stopped := [f"{row.name} (seed {', '.join(str(s) for s in row.stopped)})" for row in rows if row.stopped]:
        said.append(f"† training had to stop; what it left is counted: {', '.join(stopped)}.")
    return said


def markdown(rows: Sequence[MethodRow], teacher: Row | None, about: About) -> str:
    """A table in GitHub's Markdown, and under it what was measured."""
    lines = [*([teacher_cells(teacher)] if teacher else []), *(cells(row) for row in rows)]
    return piped(HEADERS, lines) + "\n" + "\n".join(caption(rows, about)) + "\n"


def terminal(rows: Sequence[MethodRow], teacher: Row | None, about: About) -> Table:
    """A table for `rich.console.Console.print`, with the columns that matter most."""
    lines = [("teacher", teacher_cells(teacher))] if teacher else []
    lines += [(row.name + " †" * bool(row.stopped), cells(row)) for row in rows]
    bold = [teacher is not None and i == 0 for i in range(len(lines))]
    shown = [(name, *(line[i] for i in SHOWN)) for name, line in lines]
    return framed((HEADERS[0], *(HEADERS[i] for i in SHOWN)), shown, bold, title=about.title, caption=caption(rows, about)[0])


def verdict(rows: Sequence[MethodRow], about: About) -> str:
    """Which method is the most robust, by how much, and whether the test tells it from the next."""
    ranked = [(row, value) for row in rows if (value := accuracy(row, about.judge)) is not None]
    if not ranked:
        return "There is no result to report."
    (first, best), *rest = ranked
    under = "on clean images" if about.judge == "clean" else f"under {JUDGES[about.judge]}"
    said = f"{first.name} reaches {percent(best)} {under}"
    if first.ratio is not None:
        said += f", {100 * first.ratio:.0f} % of the teacher's"
    if not rest:
        return said + "."
    (second, less), p = rest[0], first.p
    if best == less:
        return f"{said}, and so does {second.name}."
    known = "" if p is None else f" (p {'' if p < 0.001 else '= '}{chance(p)})"
    certain = "ahead of" if p is not None and p < 0.05 else "not clearly ahead of"
    return f"{said}, {certain} {second.name} with {percent(less)}{known}."
