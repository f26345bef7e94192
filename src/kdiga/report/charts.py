"""The charts that compare all models: accuracy against eps, what robustness costs, and what a method costs."""

from collections.abc import Sequence
from math import inf, log, sqrt

from kdiga.measures.readings import READINGS
from kdiga.report.measures import Summary
from kdiga.report.methods import JUDGES, About, MethodRow, accuracy
from kdiga.report.plot import Chart, Mark, Point, Style, label, path, scale, shortened, ticks, times
from kdiga.report.rows import Row
from kdiga.report.text import count, duration, percent
from kdiga.types import Threat

WIDTH, HEIGHT = 520.0, 340.0


def robustness(sweeps: dict[str, list[Point]], threat: Threat, look: dict[str, Style]) -> Chart:
    """PGD-20 accuracy against eps, the threat's eps marked."""
    per255 = "/255" in str(threat)
    unit = 255 if per255 else 1
    widest = max([eps for points in sweeps.values() for eps, _ in points] + [threat.eps])
    x_at, box = ticks(0.0, widest * unit), (52.0, 34.0, 508.0, 296.0)
    to_x, to_y = scale(x_at, box[0], box[2]), scale([0.0, 1.0], box[3], box[1])
    norm = "l-inf" if threat.norm == inf else "l2"
    chart_lines, marks = [], []
    for name, points in sweeps.items():
        placed = [(to_x(eps * unit), to_y(accuracy)) for eps, accuracy in points]
        chart_lines.append((look[name], path(placed)))
        said = [f"{name}: {100 * accuracy:.1f} % at eps {eps * unit:g}{'/255' if per255 else ''}" for eps, accuracy in points]
        marks += [Mark(at=p, style=look[name], r=4.0, title=s) for p, s in zip(placed, said, strict=True)]
    return Chart(
        title="Robust accuracy under PGD-20 against eps",
        width=WIDTH,
        height=HEIGHT,
        box=box,
        x_ticks=[(to_x(v), f"{v:g}") for v in x_at],
        y_ticks=[(to_y(v / 100), f"{v} %") for v in range(0, 101, 20)],
        x_name=f"{norm} eps{', in 1/255' if per255 else ''}",
        y_name="accuracy under PGD-20",
        lines=chart_lines,
        marks=marks,
        rule=(to_x(threat.eps * unit), str(threat)),
    )


def trade_off(rows: Sequence[Row], look: dict[str, Style]) -> Chart | None:
    """AutoAttack accuracy with its interval against clean accuracy; marker area by parameters. None when no model was attacked."""
    shown = [(r, r.autoattack) for r in rows if r.autoattack is not None]
    if not shown:
        return None
    clean = [100 * r.clean for r, _ in shown]
    middle = (min(clean) + max(clean)) / 2
    reach = 1.15 * max(max(clean) - middle, 2.0)  # some points wide at least, so that noise does not fill the plot
    x_at = ticks(max(middle - reach, 0.0), min(middle + reach, 100.0))
    y_at = ticks(0.0, max(100 * (accuracy if r.high is None else r.high) for r, accuracy in shown))
    box = (52.0, 34.0, 496.0, 296.0)
    to_x, to_y = scale(x_at, box[0] + 14, box[2]), scale(y_at, box[3], box[1])
    most = max(r.parameters for r, _ in shown) or 1
    marks = [
        Mark(
            at=(to_x(100 * r.clean), to_y(100 * accuracy)),
            style=look[r.name],
            r=max(4.0, 13 * sqrt(r.parameters / most)),
            title=f"{r.name}: {percent(r.clean)} clean, {percent(accuracy)} under AutoAttack",
            bar=None if r.low is None or r.high is None else (to_y(100 * r.high), to_y(100 * r.low)),
            words=(shortened(r.name), ", ".join([count(r.parameters), *([duration(r.seconds)] if r.seconds is not None else [])])),
        )
        for r, accuracy in shown
    ]
    return Chart(
        title="Accuracy under AutoAttack against clean accuracy",
        width=WIDTH,
        height=HEIGHT,
        box=box,
        x_ticks=[(to_x(v), f"{v:g} %") for v in x_at],
        y_ticks=[(to_y(v), f"{v:g} %") for v in y_at],
        x_name="clean accuracy",
        y_name="accuracy under AutoAttack",
        marks=label(marks, (box[0], 0.0, WIDTH, box[3])),
    )


def cost(rows: Sequence[MethodRow], teacher: float | None, about: About, look: dict[str, Style]) -> Chart | None:
    """Accuracy, with its standard deviation over the seeds, against training time on a log axis; the teacher's as a line. None when no
    method has a training time."""
    shown = [(r, r.seconds, value) for r in rows if r.seconds and (value := accuracy(r, about.judge)) is not None]
    if not shown:
        return None
    sd = {r.name: getattr(r, f"{about.judge}_sd") or 0.0 for r, _, _ in shown}
    ends = [100 * (value + sign * sd[r.name]) for r, _, value in shown for sign in (-1, 1)] + (
        [100 * teacher] if teacher is not None else []
    )
    x_at, y_at = times(min(s for _, s, _ in shown), max(s for _, s, _ in shown)), ticks(max(min(ends), 0.0), min(max(ends), 100.0))
    box = (52.0, 34.0, 748.0, 396.0)
    to_x, to_y = scale([log(s) for s in x_at], box[0] + 14, box[2] - 14), scale(y_at, box[3] - 8, box[1] + 8)
    marks = [
        Mark(
            at=(to_x(log(seconds)), to_y(100 * value)),
            style=look[r.name],
            r=6.0,
            title=f"{r.name}: {percent(value)} after {duration(seconds)} of training, {r.cost:.1f} forwards of the student a step",
            bar=(to_y(100 * (value + sd[r.name])), to_y(100 * (value - sd[r.name]))) if sd[r.name] else None,
            words=(shortened(r.name),),
        )
        for r, seconds, value in shown
    ]
    name = f"{JUDGES[about.judge]} accuracy" if about.judge == "clean" else f"accuracy under {JUDGES[about.judge]}"
    return Chart(
        title=f"{name[0].upper()}{name[1:]} against training time",
        width=760.0,
        height=440.0,
        box=box,
        x_ticks=[(to_x(log(s)), f"{s:g} s" if s < 60 else f"{s / 60:g} min" if s < 3600 else f"{s / 3600:g} h") for s in x_at],
        y_ticks=[(to_y(v), f"{v:g} %") for v in y_at],
        x_name="training time, log scale",
        y_name=name,
        marks=label(marks, (box[0], 0.0, 760.0, box[3])),
        level=None if teacher is None else (to_y(100 * teacher), f"teacher {percent(teacher)}"),
    )


def foretold(measure: str, found: Sequence[Summary], rows: Sequence[Row], judge: str, look: dict[str, Style]) -> Chart | None:
    """Accuracy under the attacks against what a measure says of each model: its share with a diagonal, where it makes a statement, else its
    mean. None when fewer than two models have both."""
    own = {s.model: s for s in found if s.measure == measure and s.mean is not None}
    shown = [(r, own[r.name], value) for r in rows if r.name in own and (value := getattr(r, judge)) is not None]
    if len(shown) < 2:
        return None
    reading = READINGS[measure]
    shares = [s.share for _, s, _ in shown if s.share is not None]
    said = [100 * share for share in shares] or [s.mean or 0.0 for _, s, _ in shown]
    x_at = ticks(0.0, 100.0) if shares else ticks(min(said), max(said))
    y_at = ticks(0.0, 100.0)
    box = (52.0, 34.0, 496.0, 296.0)
    to_x, to_y = scale(x_at, box[0] + 14, box[2]), scale(y_at, box[3], box[1])
    marks = [
        Mark(
            at=(to_x(x), to_y(100 * value)),
            style=look[r.name],
            r=5.0,
            title=f"{r.name}: {measure} {f'{x:.1f} %' if shares else f'{x:.3g}'}, {percent(value)} under {JUDGES[judge]}",
            bar=(to_y(100 * r.high), to_y(100 * r.low))
            if judge == "autoattack" and r.low is not None and r.high is not None
            else None,
            words=(shortened(r.name),),
        )
        for (r, _, value), x in zip(shown, said, strict=True)
    ]
    return Chart(
        title=f"Accuracy under {JUDGES[judge]} against {measure}",
        width=WIDTH,
        height=HEIGHT,
        box=box,
        x_ticks=[(to_x(v), f"{v:.4g}{' %' if shares else ''}") for v in x_at],
        y_ticks=[(to_y(v), f"{v:g} %") for v in y_at],
        x_name=f"images {reading.states}" if shares else f"{measure}{f', {reading.unit}' if reading.unit else ''}",
        y_name=f"accuracy under {JUDGES[judge]}",
        marks=label(marks, (box[0], 0.0, WIDTH, box[3])),
        diagonal=path([(to_x(0.0), to_y(0.0)), (to_x(100.0), to_y(100.0))]) if shares else None,
    )


def certified(found: Sequence[Summary], look: dict[str, Style]) -> Chart | None:
    """Certified accuracy of the smoothed classifiers against the l2 radius. None where nothing was smoothed."""
    curves = {s.model: s.curve for s in found if s.curve}
    if not curves:
        return None
    x_at, y_at, box = ticks(0.0, max(curve[-1][0] for curve in curves.values())), ticks(0.0, 100.0), (52.0, 34.0, 508.0, 296.0)
    to_x, to_y = scale(x_at, box[0], box[2]), scale(y_at, box[3], box[1])
    return Chart(
        title="Certified accuracy of the smoothed classifier against the l2 radius",
        width=WIDTH,
        height=HEIGHT,
        box=box,
        x_ticks=[(to_x(v), f"{v:g}") for v in x_at],
        y_ticks=[(to_y(v), f"{v:g} %") for v in y_at],
        x_name="l2 radius, image units",
        y_name="certified accuracy",
        lines=[(look[name], path([(to_x(r), to_y(100 * accuracy)) for r, accuracy in curve])) for name, curve in curves.items()],
    )
