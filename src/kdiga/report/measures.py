"""What the measures add up to: for each model and measure a summary, for each measure how well it foretells the attacks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdiga.errors import BadInput
from kdiga.folder import atomic_write
from kdiga.measures.readings import READINGS, stated
from kdiga.measures.smoothing import average_certified_radius, certified_accuracy
from kdiga.report.methods import JUDGES, chance
from kdiga.report.rows import Row
from kdiga.report.table import framed, piped
from kdiga.report.text import count, interval, percent
from kdiga.stats import concordance, spearman
from kdiga.types import Outcomes, PerSample, Threat

if TYPE_CHECKING:  # rich is imported where it is used
    from rich.table import Table

STEPS = 24  # of a radius curve
HEADERS = ("measure", "models", "rank correlation", "95 % interval", "p", "AUC within models", "stated", "contradicted")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What one measure says of one model. `mean` is over the images (of a smoothing radius the average certified radius); `share` that of the
    images of which the measure states what its reading says, `contradicted` how many of those an attack broke; `auc` the chance
    that it sets an image that withstands the attacks above one that does not; `curve` (radius, certified accuracy). None: does
    not apply, or is not finite."""

    model: str
    measure: str
    mean: float | None
    share: float | None
    stated: int | None
    contradicted: int | None
    auc: float | None
    curve: tuple[tuple[float, float], ...] | None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How a measure and the attacks rank the models: Spearman's rho, signed so that 1 is the order that theory expects, with its 95 % interval
    over the models and a two-sided p; None where fewer than three models have both. `auc` is the mean over the models."""

    measure: str
    models: int
    rho: float | None
    low: float | None
    high: float | None
    p: float | None
    auc: float | None
    stated: int | None
    contradicted: int | None


@dataclass(frozen=True, kw_only=True)
class About:
    """What all numbers share; `judge` is the attack whose outcomes are foretold; `refused` says which measures
    could not be made of which models."""

    title: str
    threat: Mapping[str, Any]
    judge: str
    measures: Mapping[str, Mapping[str, Any]]
    refused: Sequence[str] = ()
    teacher: str | None
    provenance: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Seen:
    """One model: its row, which images withstand the judge, and the measures."""

    row: Row
    robust: Outcomes
    values: Mapping[str, PerSample]


def summarise(seen: Mapping[str, Seen], threat: Threat, options: Mapping[str, Mapping[str, Any]]) -> list[Summary]:
    """A summary for every model and measure that it has."""
    return [
        _summary(name, measure, one, threat, options[measure])
        for name, one in seen.items()
        for measure in options
        if measure in one.values
    ]


def _summary(model: str, measure: str, one: Seen, threat: Threat, options: Mapping[str, Any]) -> Summary:
    values, reading = one.values[measure], READINGS[measure]
    says = stated(measure, values, threat, options)
    curve, finite = None, bool(values.isfinite().all())
    mean = float(values.double().mean())
    if finite and measure == "smoothing-radius":
        mean = average_certified_radius(values)
        radii = [float(values.max()) * 1.02 * i / STEPS for i in range(STEPS + 1)] if values.max() > 0 else [0.0]
        curve = tuple(zip(radii, certified_accuracy(values, radii), strict=True))
    return Summary(
        model=model,
        measure=measure,
        mean=mean if isfinite(mean) else None,
        share=None if says is None else float(says.double().mean()),
        stated=None if says is None else int(says.sum()),
        contradicted=None if says is None else int((says & ~one.robust).sum()),
        auc=concordance(reading.sign * values, one.robust) if finite else None,
        curve=curve,
    )


def agreements(found: Sequence[Summary], rows: Sequence[Row], judge: str) -> list[Agreement]:
    """One for each measure, over the models that have it; rows that were not attacked are left out."""
    accuracy = {r.name: value for r in rows if (value := getattr(r, judge)) is not None}
    done = []
    for measure in dict.fromkeys(s.measure for s in found):
        own = [s for s in found if s.measure == measure and s.model in accuracy and s.mean is not None]
        said = [READINGS[measure].sign * (s.mean or 0.0) if s.share is None else s.share for s in own]
        ranks = spearman(said, [accuracy[s.model] for s in own]) if len(own) >= 3 else None
        aucs = [s.auc for s in own if s.auc is not None]
        total, wrong = [s.stated for s in own if s.stated is not None], [s.contradicted for s in own if s.contradicted is not None]
        done.append(
            Agreement(
                measure=measure,
                models=len(own),
                rho=ranks.rho if ranks else None,
                low=ranks.low if ranks else None,
                high=ranks.high if ranks else None,
                p=ranks.p if ranks else None,
                auc=sum(aucs) / len(aucs) if aucs else None,
                stated=sum(total) if total else None,
                contradicted=sum(wrong) if total else None,
            )
        )
    return done


def write(found: Sequence[Summary], rows: Sequence[Row], about: About, path: Path) -> None:
    """measures.json: what is shared, a summary for each model and measure, and how each measure agrees with the attacks."""
    whole = {
        "about": asdict(about),
        "summaries": [asdict(s) for s in found],
        "agreement": [asdict(a) for a in agreements(found, rows, about.judge)],
    }
    atomic_write(path, (json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read(path: Path) -> tuple[list[Summary], list[Agreement], About]:
    """What `write` wrote. Raises BadInput for anything else."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        if whole["about"]["judge"] not in JUDGES or not all(isinstance(o, dict) for o in whole["about"]["measures"].values()):
            raise ValueError("what is said about it does not make sense")
        summaries = [Summary(**(s | {"curve": s["curve"] and tuple((r, a) for r, a in s["curve"])})) for s in whole["summaries"]]
        return summaries, [Agreement(**a) for a in whole["agreement"]], About(**whole["about"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{path} is not a measures.json that kdiga wrote ({type(error).__name__}: {error})") from None


def shown(summary: Summary | None) -> str:
    """A share as a percentage, and how many of its images were broken; a mean with three digits; a dash for what was not measured."""
    if summary is None or summary.mean is None:
        return "–"
    broken = f", {summary.contradicted} broken" if summary.contradicted else ""
    return f"{summary.mean:.3g}" if summary.share is None else f"{percent(summary.share)}{broken}"


def lines(found: Sequence[Summary], rows: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The headers of the models' table and its lines: what the attacks leave, then each measure."""
    measures = list(dict.fromkeys(s.measure for s in found))
    by = {(s.model, s.measure): s for s in found}
    headers = ("model", "parameters", "clean", "PGD-20", "AutoAttack", "95 % interval", *measures)
    cells = [
        (
            r.name,
            count(r.parameters),
            percent(r.clean),
            percent(r.pgd20),
            percent(r.autoattack),
            interval(r.low, r.high),
            *(shown(by.get((r.name, m))) for m in measures),
        )
        for r in rows
    ]
    return headers, cells


def agreement_lines(agreement: Sequence[Agreement]) -> list[tuple[str, ...]]:
    """The lines of the measures' table, in the order of HEADERS."""
    return [
        (
            a.measure,
            str(a.models),
            "–" if a.rho is None else f"{a.rho:+.2f}",
            "–" if a.low is None or a.high is None else f"{a.low:+.2f} to {a.high:+.2f}",
            chance(a.p),
            "–" if a.auc is None else f"{a.auc:.2f}",
            "–" if a.stated is None else str(a.stated),
            "–" if a.contradicted is None else str(a.contradicted),
        )
        for a in agreement
    ]


def caption(rows: Sequence[Row], about: About) -> list[str]:
    """What the columns are, a sentence or two each."""
    return [
        f"{rows[0].threat}, {rows[0].n} test images",
        *(f"{name}: {_reads(name)}{_with(options)}." for name, options in about.measures.items()),
        *(f"{line}." for line in about.refused),
        f"Rank correlation: Spearman's, over the models, of the measure (its share, where it makes a statement) and {JUDGES[about.judge]} accuracy, signed so that +1 is what theory expects; Bonett and Wright's interval, permutation test.",
        f"AUC: the chance that the measure sets an image that withstands {JUDGES[about.judge]} above one that does not, the mean over the models; 0.5 says nothing.",
        "Stated: images of which the measure makes its statement, over all models; contradicted: those of them that the attack broke. No model is compared with itself.",
    ]


def _reads(name: str) -> str:
    reading = READINGS[name]
    unit = f", in {reading.unit}" if reading.unit else ""
    if name == "smoothing-radius":
        return f"{reading.what}; the mean over all images, 0 where it is wrong or abstains"
    if reading.states is None:
        return f"{reading.what}{unit}; the mean over the images"
    return (
        f"{reading.what}; the share of images that it calls {reading.states}{'' if reading.proof else ' (evidence, not a proof)'}"
    )


def _with(options: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{k} {v}' for k, v in options.items())})" if options else ""


def markdown(found: Sequence[Summary], agreement: Sequence[Agreement], rows: Sequence[Row], about: About) -> str:
    """Both tables in GitHub's Markdown, and under them what was measured."""
    headers, cells = lines(found, rows)
    return "\n".join([piped(headers, cells), piped(HEADERS, agreement_lines(agreement)), *caption(rows, about)]) + "\n"


def terminal(found: Sequence[Summary], agreement: Sequence[Agreement], rows: Sequence[Row], about: About) -> list[Table]:
    """Tables for `rich.console.Console.print`, 80 characters wide: a column for each model, as many as fit, and one line for each measure."""
    headers, cells = lines(found, rows)
    first = max(len(h) for h in headers) + 2
    tables, columns = [], list(range(len(rows)))
    while columns:
        widths = [
            max(len(cells[i][0]), *(len(c) for j, c in enumerate(cells[i]) if headers[j] != "95 % interval")) + 1 for i in columns
        ]
        fits = max(sum(first + sum(widths[: k + 1]) <= 80 for k in range(len(columns))), 1)
        shown, columns = columns[:fits], columns[fits:]
        profile = [(h, *(cells[i][j] for i in shown)) for j, h in enumerate(headers) if h not in ("model", "95 % interval")]
        bold = [line[0] == "AutoAttack" for line in profile]
        under = "" if columns else f"{rows[0].threat}, {rows[0].n} images"
        tables.append(framed(("", *(cells[i][0] for i in shown)), profile, bold, title=about.title, caption=under))
    narrow = [[c[i] for i in (0, 2, 3, 5, 6, 7)] for c in agreement_lines(agreement)]
    names = ("measure", "ranks", "95 % interval", "AUC", "stated", "broken")
    under = "ranks: Spearman's over models; AUC, stated, broken: of images"
    return [*tables, framed(names, narrow, [False] * len(agreement), title=f"Against {JUDGES[about.judge]}", caption=under)]


def verdict(agreement: Sequence[Agreement], about: About) -> str:
    """How many of the images that measures call robust were broken, and which measure ranks the models best."""
    judge, said = JUDGES[about.judge], []
    stating = [f"{a.contradicted} of {a.stated} ({a.measure})" for a in agreement if a.stated]
    if stating:
        *most, last = stating
        said.append(f"Of the images that the measures call robust {judge} breaks {', '.join(most)}{' and ' if most else ''}{last}.")
    ranked = [a for a in agreement if a.rho is not None]
    if ranked:
        best = max(ranked, key=lambda a: (a.rho or 0.0, a.auc or 0.0))
        said.append(
            f"Of all measures {best.measure} ranks the {best.models} models most like {judge}: rank correlation {best.rho:+.2f}."
        )
    return " ".join(said) or "No measure calls an image robust, and there are too few models to rank."
