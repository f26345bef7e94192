"""Evaluate any number of models on the same images under the same threat, and write what was found: table, JSON, page."""

import json
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kdiga import data, folder, models, workers
from kdiga.errors import BadInput
from kdiga.evaluate import Evaluation, evaluate
from kdiga.evaluate.cost import Cost, affordable, cost
from kdiga.evaluate.records import NAME
from kdiga.health import NAME as HEALTH
from kdiga.health import Flag, health
from kdiga.health import read as read_flags
from kdiga.health import write as write_flags
from kdiga.recipe import Testing
from kdiga.report import gather, pictures, robustbench
from kdiga.report import health as flagged
from kdiga.report.page import page
from kdiga.report.pairs import Pair, lines, pairs
from kdiga.report.rows import Row, read_results, write_results
from kdiga.report.table import markdown, verdict
from kdiga.train import pick_device
from kdiga.types import Progress, Threat

SWEPT = 256  # images whose robust accuracy is measured over a range of eps


@dataclass(frozen=True)
class Entry:
    """A model to compare: a name that is a folder's name, too, where the model is, and what its run folder, if it is one, says."""

    name: str
    spec: str
    recipe: Mapping[str, Any]
    log: Sequence[dict[str, Any]]


def entry(name: str, spec: str) -> Entry:
    """With the recipe and the log of a run folder. Raises BadInput where they are damaged, and for models without trained weights."""
    models.check_trained(spec)
    recipe, log = Path(spec) / "recipe.toml", Path(spec) / "log.jsonl"
    try:
        said = tomllib.loads(recipe.read_text()) if recipe.is_file() else {}
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
        if not all(isinstance(o, dict) for o in (*lines, said.get("objective", {}))):
            raise ValueError("a line of the log, or what the recipe calls its objective, is no table")
    except ValueError as error:
        raise BadInput(f"{spec} is not a whole run folder, its recipe or log is damaged: {error}") from None
    return Entry(name, spec, said, lines)


def entries(specs: Sequence[str]) -> list[Entry]:
    """A short, distinct name for each spec: the last part of its path, more of it where two would be the same."""
    same = [(str(Path(path).resolve()), options) for path, _, options in (s.partition("?") for s in specs)]
    if len(set(same)) < len(specs):
        raise BadInput("a model is named twice: name each of the models to compare once")
    parts = [Path(s.partition("?")[0]).resolve().parts[1:] for s in specs]
    names: list[str] = []
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["-".join(p[-depth:]).replace(":", "-") for p in parts]
        if len(set(names)) == len(names):
            break
    else:  # one file with several sets of weights
        names = [f"{name}-{i}" for i, name in enumerate(names, 1)]
    return [entry(name, spec) for name, spec in zip(names, specs, strict=True)]


def load(chosen: Sequence[Entry], dataset: data.Dataset) -> dict[str, models.Classifier]:
    """The models by name. Raises BadInput for one that cannot be read or does not fit the data."""
    shape, classes = dataset.shape, len(dataset.classes)
    return {e.name: models.load(e.spec, shape=shape, classes=classes, mean=dataset.mean, std=dataset.std) for e in chosen}


def compare(
    chosen: Sequence[Entry],
    loaded: Mapping[str, models.Classifier],
    dataset: data.Dataset,
    threat: Threat,
    testing: Testing,
    out: Path,
    *,
    title: str,
    device: str = "auto",
    thorough: bool = False,
    progress: Progress | None = None,
) -> list[Row]:
    """Write results.json, results.md, report.html, report.json, pictures and each model's evaluation under `out`, which exists.

    `testing.n` test images are used, a fixed stratified choice. What an interrupted comparison, or the run folder itself, has already
    measured with the same settings is not measured again. `thorough` also runs the health checks that need attacks of their own.
    """
    where = pick_device(device)
    test = data.sample(dataset.test, testing.n)
    loaded = {name: model.to(where).eval() for name, model in loaded.items()}
    x, y, few = test.images().to(where), test.y.to(where), data.sample(test, SWEPT).to(where)
    places = {e.name: out if len(chosen) == 1 else out / e.name for e in chosen}
    for entry in chosen:
        bring_records(Path(entry.spec), places[entry.name])
    if len(chosen) > 1 and where.type == "cpu" and torch.get_num_threads() > 1:
        workers.record([(e.name, e.spec, places[e.name]) for e in chosen], dataset, test, threat, testing, progress)
    rows, sweeps, evaluations = [], {}, {}
    for i, entry in enumerate(chosen, 1):
        own, model = places[entry.name], loaded[entry.name]

        def said(what: str, done: int, of: int, *, prefix: str = f"{entry.name} ({i} of {len(chosen)})") -> None:
            if progress is not None:
                progress(f"{prefix}: {what}", done, of)

        found = evaluate(model, x, y, threat, attacks=testing.attacks, batch_size=testing.attack_batch, out=own, progress=said)
        sweeps[entry.name] = gather.sweep(model, few.images(), few.y, threat)
        others = {name: other for name, other in loaded.items() if other is not model} or _teacher(entry, dataset, where, thorough)
        flags = health(
            model, x, y, threat, found=found, sources=others, full=thorough, batch_size=testing.attack_batch, progress=said
        )
        flags = _kept(flags, own / HEALTH)
        write_flags(flags, own / HEALTH)
        rows.append(row(entry, chosen, model, found, flags))
        evaluations[entry.name] = found
        write_results(rows, out / "results.json")
    drawn = gather.pictures(loaded, x, y, threat)
    pictures.save(drawn, out / "pictures.safetensors")
    outcomes = {name: found.robust["autoattack"] for name, found in evaluations.items() if "autoattack" in found.robust}
    facts = {
        "title": title,
        "pairs": [asdict(pair) for pair in pairs(rows, outcomes)],
        "robustbench": robustbench.write(rows, dataset.name, threat, evaluations, out),
        "threat": {"norm": threat.norm if threat.norm == 2 else "inf", "eps": threat.eps},
        "classes": list(dataset.classes),
        "sweeps": sweeps,
        "logs": {e.name: e.log for e in chosen},
        "provenance": provenance(
            f"{dataset.name}: {len(test)} of {len(dataset.test)} test images, a fixed stratified choice; eps sweep on {len(few)} of them"
        ),
    }
    folder.atomic_write(out / "report.json", json.dumps(facts).encode())
    folder.atomic_write(
        out / "results.md", f"{markdown(rows, remarks(out))}{flagged.markdown(flagged.load(out, list(places)))}".encode()
    )
    write_report(out)
    return rows


def _kept(flags: Sequence[Flag], path: Path) -> list[Flag]:
    """The flags, with what `--health` once found in place of checks that were not made this time: the folder is this evaluation's."""
    try:
        before = {flag.name: flag for flag in read_flags(path)} if path.exists() else {}
    except BadInput:
        before = {}
    return [before.get(flag.name, flag) if flag.raised is None else flag for flag in flags]


def _teacher(entry: Entry, dataset: data.Dataset, where: torch.device, wanted: bool) -> dict[str, models.Classifier]:
    """The teacher that a run's recipe names, if it is still there: where adversarial images are taken from if no other model is."""
    spec = str(entry.recipe.get("teacher") or "")
    if not wanted or not spec or not Path(spec.partition("?")[0]).exists():
        return {}
    return {name: m.to(where).eval() for name, m in load([Entry("the teacher", spec, {}, [])], dataset).items()}


def row(
    entry: Entry, chosen: Sequence[Entry], model: models.Classifier, found: Evaluation, flags: Sequence[Flag] | None = None
) -> Row:
    """What was found about one of the models. It is the teacher if another one's recipe names its folder as such."""
    taught = {str(Path(str(e.recipe["teacher"])).resolve()) for e in chosen if e.recipe.get("teacher")}
    teachers = taught & {str(Path(e.spec).resolve()) for e in chosen}
    fgsm, pgd20, strongest = (found.accuracy(a) if a in found.robust else None for a in ("fgsm", "pgd20", "autoattack"))
    low, high = found.interval("autoattack") if "autoattack" in found.robust else (None, None)
    return Row(
        name=entry.name,
        parameters=models.parameter_count(model),
        clean=found.accuracy("clean"),
        fgsm=fgsm,
        pgd20=pgd20,
        autoattack=strongest,
        low=low,
        high=high,
        n=found.n,
        seconds=max((float(line["seconds"]) for line in entry.log if "seconds" in line), default=None),
        role="model" if not teachers else "teacher" if str(Path(entry.spec).resolve()) in teachers else "student",
        objective=entry.recipe.get("objective", {}).get("name"),
        spec=model.info.spec,
        threat=str(found.threat),
        flags=None if flags is None else tuple(flag.name for flag in flags if flag.raised),
    )


def write_report(out: Path) -> Path:
    """Draw report.html from what `compare` left in `out`; no model is needed. Raises BadInput where that is missing or damaged."""
    rows = read_results(out / "results.json")
    try:
        facts = json.loads((out / "report.json").read_text())
        html = page(
            title=facts["title"],
            rows=rows,
            threat=Threat(norm=float(facts["threat"]["norm"]), eps=facts["threat"]["eps"]),
            classes=tuple(facts["classes"]),
            sweeps={name: [(eps, acc) for eps, acc in points] for name, points in facts["sweeps"].items()},
            logs=facts["logs"],
            pictures=pictures.load(out / "pictures.safetensors") if (out / "pictures.safetensors").exists() else None,
            provenance=facts["provenance"],
            verdict=verdict(rows),
            pairs=remarks(out)[: len(facts.get("pairs", []))],
            flags=flagged.load(out, [row.name for row in rows]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(
            f"{out} does not hold a complete comparison ({type(error).__name__}: {error}): run it again with --resume"
        ) from None
    folder.atomic_write(out / "report.html", html.encode())
    return out / "report.html"


def remarks(out: Path) -> list[str]:
    """What is said under the table: which neighbours are told apart, and why there is no RobustBench entry. From what `compare` left in `out`."""
    try:
        facts = json.loads((out / "report.json").read_text())
        said = lines([Pair(**pair) for pair in facts.get("pairs", [])])
    except (OSError, ValueError, TypeError, AttributeError):
        raise BadInput(f"{out} does not hold a complete comparison: run it again with --resume") from None
    return [*said, *([facts["robustbench"]] if facts.get("robustbench") else [])]


def foretell(
    loaded: Mapping[str, models.Classifier],
    dataset: data.Dataset,
    threat: Threat,
    testing: Testing,
    *,
    device: str = "auto",
    budget: float | None = None,
) -> tuple[int, Cost]:
    """How many test images are attacked, `testing.n` or as many as `budget` seconds allow, and what one of them costs for all models.

    A function of the machine, not of outcomes: no model's answer is looked at. Raises BadInput where the budget is too short.
    """
    where, few = pick_device(device), data.sample(dataset.test, min(testing.n, testing.attack_batch)).images()
    each = [cost(m.to(where), few, threat, testing.attacks, batch_size=testing.attack_batch) for m in loaded.values()]
    total, most = Cost(sum(c.low for c in each), sum(c.high for c in each)), min(testing.n, len(dataset.test))
    return (most if budget is None else affordable(total, budget, most)), total


def bring_records(run: Path, own: Path) -> None:
    """Start from what was measured in the run folder; `evaluate` uses a record only if its fingerprint fits."""
    own.mkdir(parents=True, exist_ok=True)
    if (run / NAME).is_file() and not (own / NAME).exists():
        shutil.copyfile(run / NAME, own / NAME)


def provenance(images: str) -> dict[str, str]:
    """What a reader needs to repeat the numbers; `images` says which were used."""
    said = {k: v for k, v in folder.environment().items() if v is not None}
    if isinstance(said["versions"], dict):
        said["versions"] = ", ".join(f"{k} {v}" for k, v in said["versions"].items())
    return {k: str(v) for k, v in (said | {"data": images}).items()}
