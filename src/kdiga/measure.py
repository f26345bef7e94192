"""Attack any number of models on the same images and measure them there: one table, one page of plots, and how well each measure foretells the attacks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kdiga import data, folder, models, pool
from kdiga.compare import Entry, bring_records, provenance, row
from kdiga.errors import BadInput
from kdiga.measured import Job, bound, compares, found, measure_one
from kdiga.measures import GIVEN, MEASURES
from kdiga.options import accepted, choices, convert
from kdiga.recipe import Testing
from kdiga.report import measures as report
from kdiga.report.page import measures_page
from kdiga.report.rows import Row, read_results, write_results
from kdiga.train import pick_device
from kdiga.types import Progress, Threat

DEFAULT = ("local-linearity", "linear-bound", "gradient-cosine", "gradient-l1", "transfer-bound", "transfer-slack")
COUNTS = ("steps", "restarts", "n0", "n", "batches", "samples")  # options that say how long to search: 1 for a trial


@dataclass(frozen=True)
class Asked:
    """What to measure: the measures with their options, and the teacher, None where no measure compares with one."""

    measures: Mapping[str, Mapping[str, Any]]
    teacher: str | None


def asked(names: Sequence[str], sets: Mapping[str, object], teacher: str | None, chosen: Sequence[Entry]) -> Asked:
    """The measures by name, with options given as `sigma` (for every measure that has it) or `smoothing-radius.sigma`.

    Without `teacher` it is the one that the models' recipes name. Raises BadInput for unknown measures and options, and where a measure
    compares with a teacher and none, or more than one, is named.
    """
    for name in names:
        if name not in MEASURES:
            raise BadInput(f"there is no measure '{name}': {choices(name, MEASURES)}")
    known = {name: accepted(MEASURES[name], hidden=GIVEN) for name in names}
    options: dict[str, dict[str, object]] = {name: {} for name in names}
    for key, value in sets.items():
        measure, _, option = key.rpartition(".")
        places = [name for name in names if option in known[name] and measure in ("", name)]
        if not places:
            raise BadInput(
                f"no measure asked for has an option '{key}': {choices(option, sorted({o for k in known.values() for o in k}))}"
            )
        for name in places:
            options[name][option] = value
    measures = {name: convert(MEASURES[name], options[name], hidden=GIVEN) for name in names}
    if not any(compares(name) for name in names):
        return Asked(measures, None)
    told = {str(e.recipe["teacher"]) for e in chosen if e.recipe.get("teacher")}
    named = {str(Path(spec).resolve()) if Path(spec).exists() else spec for spec in told}
    if teacher is None and len(named) != 1:
        said = f"the models' recipes name {len(named)} teachers" if named else "no model's recipe names one"
        raise BadInput(f"{next(filter(compares, names))} compares with a teacher, and {said}: give --teacher MODEL")
    found = teacher or named.pop()
    if teacher is None and "/" in found and not Path(found.partition("?")[0]).exists():
        raise BadInput(f"{found}, the teacher that the models' recipes name, is not there any more: give --teacher MODEL")
    models.check_trained(found)
    return Asked(measures, found)


@dataclass(frozen=True)
class Plan:
    """What will be done: a job for each model, by name, and a line for each measure that cannot be made of a model."""

    asked: Asked
    threat: Threat
    testing: Testing
    device: torch.device
    jobs: Mapping[str, Job]
    refused: Sequence[str]


def plan(
    chosen: Sequence[Entry], what: Asked, dataset: data.Dataset, threat: Threat, testing: Testing, *, device: str = "auto"
) -> Plan:
    """Each measure is tried on two training images of each model, so that what cannot be done is known before a folder is touched.

    Raises BadInput for models and teachers that cannot be loaded for the data, for a measure that can be made of no model, and without an
    attack to hold the measures against.
    """
    if not {"autoattack", "pgd20"} & set(testing.attacks):
        raise BadInput("the measures are held against attacks: --attacks must have autoattack or pgd20")
    fits = {"shape": dataset.shape, "classes": len(dataset.classes), "mean": dataset.mean, "std": dataset.std}
    whole = Job("", what.teacher, what.measures, fits, threat, testing, pick_device(device))
    made, refused = {}, []
    for e in chosen:
        job = replace(whole, spec=e.spec)
        why = _tried(job, dataset.train)
        made[e.name] = replace(job, measures={k: v for k, v in what.measures.items() if k not in why})
        refused += [f"{name} is not measured of {e.name}: {error}" for name, error in why.items()]
    for name in what.measures:
        if not any(name in job.measures for job in made.values()):
            raise BadInput(next(line for line in refused if line.startswith(f"{name} ")))
    return Plan(what, threat, testing, whole.device, made, refused)


def _tried(job: Job, train: data.Split) -> dict[str, BadInput]:
    """The measures that cannot be made of the model, and why."""
    (model, teacher), wrong = job.load(), {}
    x, y = train.images(slice(0, 2)).to(job.device), train.y[:2].to(job.device)
    for name, options in job.measures.items():
        short = {k: 1 for k in COUNTS if k in accepted(MEASURES[name])}
        try:
            with torch.random.fork_rng(devices=[]):
                bound(name, {**options, **short}, teacher)(model, x, y, job.threat)
        except BadInput as error:
            wrong[name] = error
    return wrong


def measure(
    chosen: Sequence[Entry], plan: Plan, dataset: data.Dataset, out: Path, *, title: str, progress: Progress | None = None
) -> None:
    """Write each model's evaluation and measures under OUT/NAME, then results.json, measures.json, results.md and report.html.

    A fixed stratified choice of test images, the same for attacks and measures. On a CPU models are measured side by side, each in a process
    with one thread. What the folder holds with the same digest is not measured again, and what it holds beside is kept.
    """
    test = data.sample(dataset.test, plan.testing.n)
    work: pool.Jobs = {name: (job, out / name, test.x.numpy(), test.y.numpy()) for name, job in plan.jobs.items()}
    for e in chosen:
        bring_records(Path(e.spec), out / e.name)
    failed = pool.each(measure_one, work, torch.get_num_threads() if plan.device.type == "cpu" else 1, progress)
    if failed:
        name, error = next(iter(failed.items()))
        if isinstance(error, BadInput):
            raise BadInput(f"{name}: {error}") from error
        error.add_note(f"while measuring {name}; what was measured is kept in {out}")
        raise error
    left = {name: found(job, out / name, test) for name, job in plan.jobs.items()}
    rows = [row(e, chosen, model, evaluation) for e, (model, evaluation, _) in zip(chosen, left.values(), strict=True)]
    write_results(rows, out / "results.json")
    about = report.About(
        title=title,
        threat={"norm": "l2" if plan.threat.norm == 2 else "linf", "eps": plan.threat.eps},
        judge="autoattack" if "autoattack" in plan.testing.attacks else "pgd20",
        measures=plan.asked.measures,
        refused=plan.refused,
        teacher=plan.asked.teacher,
        provenance=provenance(f"{dataset.name}: {len(test)} of {len(dataset.test)} test images, a fixed stratified choice"),
    )
    seen = {
        r.name: report.Seen(r, evaluation.robust[about.judge], values)
        for r, (_, evaluation, values) in zip(rows, left.values(), strict=True)
    }
    report.write(report.summarise(seen, plan.threat, about.measures), rows, about, out / "measures.json")
    folder.atomic_write(out / "results.md", report.markdown(*read_report(out)).encode())
    write_report(out)


def read_report(out: Path) -> tuple[list[report.Summary], list[report.Agreement], list[Row], report.About]:
    """What `measure` left in the folder. Raises BadInput where a file is missing or damaged."""
    summaries, agreement, about = report.read(out / "measures.json")
    rows = read_results(out / "results.json")
    if not rows:
        raise BadInput(f"{out / 'results.json'} holds no model: run `kdiga measure` again with --resume")
    return summaries, agreement, rows, about


def write_report(out: Path) -> None:
    """Draw report.html from what `measure` left in `out`; no model is needed."""
    found = read_report(out)
    try:
        html = measures_page(*found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{out} does not hold a complete measurement ({type(error).__name__}: {error}): run it again with --resume"
        ) from None
    folder.atomic_write(out / "report.html", html.encode())
