"""Attack any number of models on the same images and measure them there: one table, one page of plots, and how well each measure foretells the attacks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kdiga import data, folder, models, pool
from kdiga.attacks.guard import guarded
from kdiga.compare import Entry, bring_records, provenance, row
from kdiga.errors import BadInput
from kdiga.evaluate import Evaluation, evaluate, records
from kdiga.evaluate.stage import stream
from kdiga.measures import GIVEN, MEASURES
from kdiga.options import accepted, choices, convert
from kdiga.recipe import Testing
from kdiga.report import measures as report
from kdiga.report.page import measures_page
from kdiga.report.rows import Row, read_results, write_results
from kdiga.train import pick_device
from kdiga.types import Images, Labels, Measure, PerSample, Progress, Threat

NAME = (
    "measures.safetensors"  # in each model's folder: a number for each image and measure, and a fingerprint of what it depends on
)
DEFAULT = ("local-linearity", "linear-bound", "gradient-cosine", "gradient-l1", "transfer-bound", "transfer-slack")
Options = Mapping[str, Mapping[str, Any]]  # by measure
Fits = Mapping[str, Any]  # what a spec is loaded for: shape, classes, mean, std


@dataclass(frozen=True)
class Asked:
    """What to measure: the measures with their options, and the teacher, None where no measure compares with one."""

    measures: Options
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
    named = {str(e.recipe["teacher"]) for e in chosen if e.recipe.get("teacher")}
    if teacher is None and len(named) != 1:
        found = f"the models' recipes name {len(named)} teachers" if named else "no model's recipe names one"
        raise BadInput(f"{next(filter(compares, names))} compares with a teacher, and {found}: give --teacher MODEL")
    teacher = teacher or named.pop()
    models.check_trained(teacher)
    return Asked(measures, teacher)


def compares(name: str) -> bool:
    """Whether the measure compares with a teacher."""
    return "teacher" in accepted(MEASURES[name])


def measure(
    chosen: Sequence[Entry],
    what: Asked,
    dataset: data.Dataset,
    threat: Threat,
    testing: Testing,
    out: Path,
    *,
    title: str,
    device: str = "auto",
    progress: Progress | None = None,
) -> None:
    """Write each model's evaluation and measures under OUT/NAME, then results.json, measures.json, results.md and report.html.

    `testing.n` test images, a fixed stratified choice, the same for attacks and measures. On a CPU models are measured side by side, each in
    a process with one thread. What the folder holds with the same fingerprint is not measured again.
    """
    test = data.sample(dataset.test, testing.n)
    fits: Fits = {"shape": dataset.shape, "classes": len(dataset.classes), "mean": dataset.mean, "std": dataset.std}
    x, y = test.x.numpy(), test.y.numpy()
    where = pick_device(device)
    jobs: pool.Jobs = {e.name: (e.spec, what, out / e.name, fits, x, y, threat, testing, where) for e in chosen}
    for e in chosen:
        bring_records(Path(e.spec), out / e.name)
    failed = pool.each(measure_one, jobs, torch.get_num_threads() if where.type == "cpu" else 1, progress)
    if failed:
        name, error = next(iter(failed.items()))
        if isinstance(error, BadInput):
            raise BadInput(f"{name}: {error}") from error
        error.add_note(f"while measuring {name}; what was measured is kept in {out}")
        raise error
    found = {e.name: _read(e, what, out / e.name, fits, test, threat, testing) for e in chosen}
    rows = [row(e, chosen, model, evaluation) for e, (model, evaluation, _) in zip(chosen, found.values(), strict=True)]
    write_results(rows, out / "results.json")
    judge = next((a for a in ("autoattack", "pgd20") if a in testing.attacks), "clean")
    seen = {
        name: report.Seen(own, evaluation.robust[judge], values)
        for own, (name, (_, evaluation, values)) in zip(rows, found.items(), strict=True)
    }
    about = report.About(
        title=title,
        threat={"norm": "l2" if threat.norm == 2 else "linf", "eps": threat.eps},
        judge=judge,
        measures=what.measures,
        teacher=what.teacher,
        provenance=provenance(f"{dataset.name}: {len(test)} of {len(dataset.test)} test images, a fixed stratified choice"),
    )
    report.write(report.summarise(seen, threat, what.measures), rows, about, out / "measures.json")
    folder.atomic_write(out / "results.md", report.markdown(*read_report(out)).encode())
    write_report(out)


def measure_one(
    spec: str,
    what: Asked,
    own: Path,
    fits: Fits,
    x: NDArray[np.uint8],
    y: NDArray[np.int64],
    threat: Threat,
    testing: Testing,
    device: torch.device,
    *,
    progress: Progress,
) -> None:
    """One job: a model's attacks, then each measure, which is saved when it is done."""
    test = data.Split(torch.from_numpy(x), torch.from_numpy(y))
    model, images = models.load(spec, **fits).to(device), test.images()
    evaluate(model, images, test.y, threat, attacks=testing.attacks, batch_size=testing.attack_batch, out=own, progress=progress)
    teacher = None if (found := _teacher(what, fits)) is None else found.to(device)
    values = _known(own, prints := _fingerprints(model, teacher, images, test.y, threat, what))
    for name, options in what.measures.items():
        if name not in values and not _is_teacher(name, model, teacher):
            given: dict[str, Any] = {**options, "teacher": teacher} if compares(name) else {**options}
            bound = partial(MEASURES[name], **given)
            values[name] = _measured(bound, name, model, images, test.y, threat, testing.attack_batch, progress)
            _save(own, values, prints)


def _measured(
    bound: Measure, name: str, model: nn.Module, x: Images, y: Labels, threat: Threat, batch_size: int, tell: Progress
) -> PerSample:
    """The measure in batches; the random numbers of one come from the measure and the batch's first row."""
    parts, device = [], next(model.parameters(), x).device
    with guarded(model, device):
        for start in range(0, len(x), batch_size):
            torch.manual_seed(stream(0, name, start))
            u, v = x[start : start + batch_size].to(device), y[start : start + batch_size].to(device)
            parts.append(bound(model, u, v, threat).float().cpu())
            tell(name, min(start + batch_size, len(x)), len(x))
    return torch.cat(parts)


def _teacher(what: Asked, fits: Fits) -> nn.Module | None:
    return None if what.teacher is None else models.load(what.teacher, **fits).eval().requires_grad_(False)


def _is_teacher(name: str, model: nn.Module, teacher: nn.Module | None) -> bool:
    """Whether the measure would compare the teacher with itself."""
    if not compares(name) or teacher is None:
        return False
    own, other = model.state_dict(), teacher.state_dict()
    return own.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in own.items())


def _fingerprints(model: nn.Module, teacher: nn.Module | None, x: Images, y: Labels, threat: Threat, what: Asked) -> dict[str, str]:
    """By measure: a digest of everything its numbers depend on."""
    own = records.facts(model, x, y, threat, 0, 0)["fingerprint"]
    other = None if teacher is None else records.facts(teacher, x[:1], y[:1], threat, 0, 0)["fingerprint"]
    return {
        name: sha256(f"{name} {sorted(options.items())} {own} {other if compares(name) else ''}".encode()).hexdigest()
        for name, options in what.measures.items()
    }


def _known(own: Path, prints: Mapping[str, str]) -> dict[str, PerSample]:
    """The measures that the folder holds with the right fingerprints."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(own / NAME, framework="pt") as file:
            about = file.metadata() or {}
            return {name: file.get_tensor(name) for name, digest in prints.items() if about.get(name) == digest}
    except (OSError, SafetensorError):
        return {}


def _save(own: Path, values: Mapping[str, PerSample], prints: Mapping[str, str]) -> None:
    from safetensors.torch import save

    folder.atomic_write(own / NAME, save(dict(values), metadata={k: prints[k] for k in values}))


def _read(
    e: Entry, what: Asked, own: Path, fits: Fits, test: data.Split, threat: Threat, testing: Testing
) -> tuple[models.Classifier, Evaluation, dict[str, PerSample]]:
    """What a job has left; nothing is measured here."""
    model, x = models.load(e.spec, **fits), test.images()
    found = evaluate(model, x, test.y, threat, attacks=testing.attacks, batch_size=testing.attack_batch, out=own)
    return model, found, _known(own, _fingerprints(model, _teacher(what, fits), x, test.y, threat, what))


def read_report(out: Path) -> tuple[list[report.Summary], list[report.Agreement], list[Row], report.About]:
    """What `measure` left in the folder. Raises BadInput where a file is missing or damaged."""
    summaries, agreement, about = report.read(out / "measures.json")
    return summaries, agreement, read_results(out / "results.json"), about


def write_report(out: Path) -> None:
    """Draw report.html from what `measure` left in `out`; no model is needed."""
    folder.atomic_write(out / "report.html", measures_page(*read_report(out)).encode())
