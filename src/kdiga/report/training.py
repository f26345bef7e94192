"""The training log as small charts, one for each loss term and each validation accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from kdiga.report.plot import Point, path, scale, ticks
from kdiga.report.text import percent

MOST = 160  # points drawn of one curve
BOX = (46.0, 10.0, 216.0, 112.0, 220.0, 134.0)  # of a panel: left, top, right, bottom, width, height
WORDS = {"pgd20": "PGD-20", "fgsm": "FGSM", "autoattack": "AutoAttack"}
Curves = dict[str, list[Point]]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Curves that share a scale: a loss term, or the validation accuracies. `lines` holds each curve's name and polyline points."""

    name: str
    lines: list[tuple[str, str]]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    last: str


def panels(log: Sequence[dict[str, Any]]) -> list[Panel]:
    """`log` is a run's log.jsonl, parsed: lines with `step`, and `loss` and `terms`, or `validation`. Values that are not finite
    are left out, so a run that diverged still has a report."""
    losses: Curves = {}
    validation: Curves = {}
    for line in log:
        terms = line.get("terms") or {}
        # with one term the loss is that term
        _append(losses, line, ({"loss": line.get("loss")} if len(terms) != 1 else {}) | {f"term {k}": v for k, v in terms.items()})
        _append(validation, line, {WORDS.get(k, k): v for k, v in (line.get("validation") or {}).items()})
    drawn = [_panel(name, {name: points}) for name, points in losses.items()]
    return [*drawn, _panel("validation accuracy", validation)] if validation else drawn


def _append(curves: Curves, line: dict[str, Any], values: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, int | float) and isfinite(value):
            curves.setdefault(name, []).append((float(line["step"]), float(value)))


def _panel(name: str, curves: Curves) -> Panel:
    thin = {key: _thinned(points) for key, points in curves.items()}
    ys = [y for points in thin.values() for _, y in points]
    accuracy = name == "validation accuracy"
    x_at = [0.0, max(1.0, *(x for points in curves.values() for x, _ in points))]
    y_at = [0.0, 0.5, 1.0] if accuracy else ticks(min(0.0, *ys), max(ys), 3)
    to_x, to_y = scale(x_at, BOX[0], BOX[2]), scale(y_at, BOX[3], BOX[1])
    return Panel(
        name=name,
        lines=[(key, path([(to_x(x), to_y(y)) for x, y in points])) for key, points in thin.items()],
        x_ticks=[(to_x(x), f"{x:.0f}") for x in x_at],
        y_ticks=[(to_y(y), f"{100 * y:.0f} %" if accuracy else f"{y:.4g}") for y in y_at],
        last=", ".join(f"{key} {percent(points[-1][1]) if accuracy else f'{points[-1][1]:.3g}'}" for key, points in curves.items()),
    )


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most MOST points, each the mean of neighbours."""
    size = -(-len(points) // MOST)
    return [_mean(points[i : i + size]) for i in range(0, len(points), size)]


def _mean(points: Sequence[Point]) -> Point:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
