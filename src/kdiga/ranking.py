"""What the runs of a comparison of methods add up to: a row for each run and each method, the test between neighbours, the page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from torch import nn

from kdiga import data, folder, models
from kdiga.attacks.guard import guarded
from kdiga.compare import Entry, entry, provenance, row
from kdiga.counting import Cost
from kdiga.distill import load_model
from kdiga.errors import BadInput
from kdiga.evaluate import Evaluation, evaluate
from kdiga.losses import cross_entropy, input_gradient
from kdiga.methods import Method
from kdiga.recipe import Recipe
from kdiga.report import methods as report
from kdiga.report.page import methods_page
from kdiga.report.pictures import cosine
from kdiga.report.rows import Row, read_results, write_results
from kdiga.stats import mean_sd, paired_seeds
from kdiga.train import pick_device
from kdiga.types import Images, Labels, Outcomes, Progress

STOPPED = "stopped.json"  # in a run's folder: why its training had to stop


@dataclass(frozen=True, eq=False)
class Measured:
    """What is found about one model: `outcomes` of the accuracy that ranks the methods, `gradient` at the clean test images."""

    row: Row
    outcomes: Outcomes
    gradient: Images
    steps: int | None


def evaluated(
    recipe: Recipe, spec: str, own: Path, dataset: data.Dataset, progress: Progress | None = None
) -> tuple[models.Classifier, Evaluation]:
    """The model and its evaluation as the recipe asks for it, which goes on from what the folder `own` holds."""
    test, how = data.sample(dataset.test, recipe.evaluate.n), recipe.evaluate
    model, x = load_model(spec, dataset).to(pick_device(recipe.train.device)), test.images()
    return model, evaluate(
        model, x, test.y, recipe.threat, attacks=how.attacks, batch_size=how.attack_batch, out=own, progress=progress
    )


def write(
    chosen: Sequence[Method],
    done: Sequence[str],
    teacher: Entry | None,
    costs: Mapping[str, tuple[Cost, float]],
    dataset: data.Dataset,
    out: Path,
    circumstances: Mapping[str, str],
) -> None:
    """Write everything from the folders of the runs in `done`; what they have measured is read, not measured again."""
    first = chosen[0].recipe
    entries = ({"teacher": teacher} if teacher else {}) | {name: entry(name, str(out / name)) for name in done}
    judge = next(name for name in report.JUDGES if name == "clean" or name in first.evaluate.attacks)
    found = {name: _measured(e, list(entries.values()), first, out / name, dataset, judge) for name, e in entries.items()}
    by_method = {m.name: {s: found[f"{m.name}/seed-{s}"] for s in m.runs if f"{m.name}/seed-{s}" in found} for m in chosen}
    rows = []
    for method in chosen:
        stopped = tuple(seed for seed in method.runs if (out / method.name / f"seed-{seed}" / STOPPED).exists())
        if by_method[method.name]:
            rows.append(_summary(method, by_method[method.name], stopped, found.get("teacher"), *costs[method.name]))
    images = len(next(iter(found.values())).outcomes)
    about = report.About(
        title=f"Training objectives compared: {dataset.name}, {first.threat}",
        threat=str(first.threat),
        n=images,
        judge=judge,
        provenance=provenance(f"{dataset.name}: {images} of {len(dataset.test)} test images, a fixed stratified choice")
        | dict(circumstances),
    )
    outcomes = {name: torch.stack([m.outcomes for m in own.values()]) for name, own in by_method.items() if own}
    rows = _ranked(rows, outcomes, judge)
    write_results([m.row for m in found.values()], out / "results.json")
    report.write(rows, out / "methods.json")
    folder.atomic_write(out / "report.json", json.dumps(asdict(about), indent=1).encode())
    folder.atomic_write(out / "results.md", report.markdown(*read_report(out)).encode())
    write_report(out)


def _measured(e: Entry, every: Sequence[Entry], recipe: Recipe, own: Path, dataset: data.Dataset, judge: str) -> Measured:
    model, found = evaluated(recipe, e.spec, own, dataset)
    test, device = data.sample(dataset.test, recipe.evaluate.n), next(model.parameters()).device
    with guarded(model, device):
        parts = [
            _gradient(model, test.images(r).to(device), test.y[r].to(device)).cpu() for r in torch.arange(len(test)).split(256)
        ]
    steps = max((int(line["step"]) for line in e.log if "step" in line), default=None)
    return Measured(row(e, every, model, found), found.robust[judge], torch.cat(parts), steps)


def _gradient(model: nn.Module, x: Images, y: Labels) -> Images:
    u = x.requires_grad_()
    return input_gradient(cross_entropy(model(u), y), u)


def _summary(
    method: Method, own: Mapping[int, Measured], stopped: tuple[int, ...], teacher: Measured | None, cost: Cost, forward: float
) -> report.MethodRow:
    rows = [m.row for m in own.values()]
    clean, pgd20, robust = (_over_seeds([getattr(r, name) for r in rows]) for name in ("clean", "pgd20", "autoattack"))
    whole = teacher.row.autoattack if teacher is not None else None
    aligned = torch.cat([cosine(m.gradient, teacher.gradient) for m in own.values()]) if teacher is not None else torch.empty(0)
    aligned = aligned[~aligned.isnan()]  # where either gradient is zero there is no angle
    seconds, steps = [r.seconds for r in rows if r.seconds is not None], [m.steps for m in own.values() if m.steps is not None]
    return report.MethodRow(
        name=method.name,
        objective=method.recipe.objective,
        seeds=tuple(own),
        parameters=rows[0].parameters,
        clean=clean[0] or 0.0,
        clean_sd=clean[1],
        pgd20=pgd20[0],
        pgd20_sd=pgd20[1],
        autoattack=robust[0],
        autoattack_sd=robust[1],
        ratio=robust[0] / whole if robust[0] is not None and whole else None,
        cosine=aligned.mean().item() if len(aligned) else None,
        seconds=round(median(seconds), 3) if seconds else None,
        steps=max(steps, default=None),
        **asdict(cost),
        cost=cost.flops / forward,
        p=None,
        stopped=stopped,
    )


def _over_seeds(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and standard deviation; None for what was not measured, and for the deviation of one value."""
    known = [v for v in values if v is not None]
    if not known:
        return None, None
    mean, sd = mean_sd(known)
    return mean, sd if len(known) > 1 else None


def _ranked(rows: Sequence[report.MethodRow], outcomes: Mapping[str, torch.Tensor], judge: str) -> list[report.MethodRow]:
    """The best first, each tested against the next."""
    rows = sorted(rows, key=lambda r: report.accuracy(r, judge) or 0.0, reverse=True)
    tested = [replace(a, p=paired_seeds(outcomes[a.name], outcomes[b.name])) for a, b in pairwise(rows)]
    return [*tested, *rows[-1:]]


def read_report(out: Path) -> tuple[list[report.MethodRow], Row | None, report.About]:
    """Methods, teacher and what they share, from the folder. Raises BadInput where one of the files is missing or damaged."""
    rows, results = report.read(out / "methods.json"), read_results(out / "results.json")
    try:
        about = report.About(**json.loads((out / "report.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        said = f"{type(error).__name__}: {error}"
        raise BadInput(f"{out} does not hold a complete comparison of methods ({said}): run it again with --resume") from None
    return rows, next((r for r in results if r.role == "teacher"), None), about


def write_report(out: Path) -> None:
    """Draw report.html from what `write` left in `out`; no model is needed."""
    folder.atomic_write(out / "report.html", methods_page(*read_report(out)).encode())
