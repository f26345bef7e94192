"""One HTML page that needs nothing else: no script, no request, styles and pictures inside."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from kdiga.health import CHECKS
from kdiga.measures.readings import READINGS
from kdiga.report import charts, health, measures, methods, plot
from kdiga.report.gallery import gallery
from kdiga.report.pictures import Pictures
from kdiga.report.rows import Row
from kdiga.report.table import caption
from kdiga.report.text import count, duration, interval, percent
from kdiga.report.training import BOX, panels
from kdiga.types import Threat

if TYPE_CHECKING:  # jinja2 is imported where it is used
    from jinja2 import Environment


def page(
    *,
    title: str,
    rows: Sequence[Row],
    threat: Threat,
    classes: Sequence[str],
    sweeps: dict[str, list[tuple[float, float]]],
    logs: dict[str, list[dict[str, Any]]],
    pictures: Pictures | None,
    provenance: dict[str, str],
    verdict: str,
    pairs: Sequence[str] = (),
    flags: health.Flags | None = None,
) -> str:
    """The page as text. What is empty or None is left out, with its section.

    `sweeps`: (eps, accuracy under PGD-20) per model; `logs`: parsed log.jsonl lines per run; `classes`: names by label; `pairs`: a
    sentence for each two neighbours of the table; `flags`: what the health checks said, by model.
    """
    teachers = [r.name for r in rows if r.role == "teacher"]
    names = list(dict.fromkeys([*(r.name for r in rows), *sweeps, *logs, *(pictures.names if pictures else ())]))
    names.sort(key=lambda name: name not in teachers)
    look = plot.styles(names, teachers)
    order = [name for name in names if pictures and name in pictures.names]
    teacher = next((name for name in order if name in teachers), None)
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=title,
            verdict=verdict,
            pairs=pairs,
            rows=sorted(rows, key=lambda row: row.name not in teachers),
            measured_on=caption(rows) or str(threat),
            look=look,
            threat=threat,
            l_inf=threat.norm == inf,
            robustness=charts.robustness(sweeps, threat, look) if sweeps else None,
            sweeps=sweeps,
            trade_off=charts.trade_off(rows, look),
            training={name: panels(log) for name, log in logs.items() if panels(log)},
            gallery=gallery(pictures, teacher=teacher, order=order, classes=classes, threat=threat) if pictures and order else None,
            teacher=teacher,
            checks=CHECKS,
            flags=flags or {},
            raised=health.raised(flags or {}),
            marks=health.MARKS,
            panel_box=BOX,
            provenance=provenance,
        )
    )


def methods_page(rows: Sequence[methods.MethodRow], teacher: Row | None, about: methods.About) -> str:
    """The page of a comparison of methods: table and chart."""
    names = [*([teacher.name] if teacher else []), *(row.name for row in rows)]
    look = plot.styles(names, names[:1] if teacher else [])
    level = None if teacher is None else getattr(teacher, about.judge)
    lines = [
        *([(teacher.name, methods.teacher_cells(teacher))] if teacher else []),
        *((row.name, methods.cells(row)) for row in rows),
    ]
    return (
        _environment()
        .get_template("methods.html")
        .render(
            title=about.title,
            verdict=methods.verdict(rows, about),
            headers=methods.HEADERS,
            strongest=methods.HEADERS.index(methods.JUDGES[about.judge]),
            lines=lines,
            named=[row.name for row in rows],
            look=look,
            measured_on=methods.caption(rows, about)[0],
            caption=methods.caption(rows, about),
            cost=charts.cost(rows, level, about, look),
            provenance=about.provenance,
        )
    )


def measures_page(
    found: Sequence[measures.Summary], agreement: Sequence[measures.Agreement], rows: Sequence[Row], about: measures.About
) -> str:
    """The page of `kdiga measure`: models, measures, and each measure against the attacks."""
    names = [row.name for row in rows]
    look = plot.styles(names, [row.name for row in rows if row.role == "teacher"])
    headers, cells = measures.lines(found, rows)
    drawn = {a.measure: charts.foretold(a.measure, found, rows, about.judge, look) for a in agreement}
    return (
        _environment()
        .get_template("measures.html")
        .render(
            title=about.title,
            verdict=measures.verdict(agreement, about),
            measured_on=measures.caption(rows, about)[0],
            caption=measures.caption(rows, about),
            headers=headers,
            lines=cells,
            agreement_headers=measures.HEADERS,
            agreement_lines=measures.agreement_lines(agreement),
            look=look,
            names=names,
            plots={name: chart for name, chart in drawn.items() if chart},
            readings=READINGS,
            certified=charts.certified(found, look),
            smoothed=[s.model for s in found if s.curve],
            teacher=about.teacher,
            provenance=about.provenance,
        )
    )


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("kdiga.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "count": count, "duration": duration}
    environment.globals |= {"interval": interval, "outline": plot.outline}
    return environment
