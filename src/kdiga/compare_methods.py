"""The fair comparison of training objectives: every method with every seed from the same weights, data order and budget, one table."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from kdiga import data, folder, pool, ranking
from kdiga.compare import bring_records, entry
from kdiga.counting import Cost, step_cost
from kdiga.distill import extra_images, load_model, run
from kdiga.errors import BadInput, Stopped
from kdiga.methods import Method, difference
from kdiga.ranking import evaluated
from kdiga.recipe import Recipe, read, resolve
from kdiga.train import pick_device
from kdiga.types import Progress

ASKED = "asked.json"  # in the folder from the start: what was asked for; --resume looks for it


def compare_methods(
    chosen: Sequence[Method],
    out: Path,
    *,
    root: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Train and evaluate each method with each seed in OUT/NAME/seed-S; write results.json, methods.json, results.md and report.html.

    `jobs` runs at a time, each in a process with one thread; by default as many as torch has threads, on a GPU one. With `resume`, runs
    that are finished stay, those with a checkpoint go on, the others start. A run that has to stop is measured as it is and marked. What is
    wrong with the input is found before the folder is touched; should a run fail all the same, the others are finished and reported
    before its error is raised.
    """
    if jobs is not None and jobs < 1:
        raise BadInput(f"--jobs is {jobs}: it must be at least 1")
    first, runs = chosen[0].recipe, {f"{m.name}/seed-{seed}": recipe for m in chosen for seed, recipe in m.runs.items()}
    device = pick_device(first.train.device)
    named = {first.data, first.teacher, first.standard_teacher} | {s for r in runs.values() for s in (r.model, r.train.extra)}
    folder.check_free(out, resume=resume, overwrite=overwrite, mark=ASKED, needed=sorted(s for s in named if s))
    dataset = data.load(first.data, root)
    teacher = None if first.teacher is None else entry("teacher", first.teacher)
    costs = {m.name: _checked(m, dataset, device) for m in chosen}
    if first.teacher is not None:
        load_model(first.teacher, dataset)
    if resume:
        for name, recipe in runs.items():
            _goes_on(name, recipe, out / name)
    else:
        folder.start(out, overwrite=overwrite)
    asked = {m.name: {"objective": m.recipe.objective, "options": m.recipe.options, "seeds": list(m.runs)} for m in chosen}
    folder.atomic_write(out / ASKED, json.dumps(asked, indent=1).encode())
    work: pool.Jobs = ({"teacher": (first, out / "teacher", root, False)} if teacher else {}) | {
        name: (recipe, out / name, root, True) for name, recipe in runs.items()
    }
    processes = jobs or (torch.get_num_threads() if device.type == "cpu" else 1)
    with folder.locked(out):
        failed = pool.each(train_and_evaluate, work, processes, progress)
        if "teacher" in failed:
            raise failed["teacher"]
        done = [name for name in runs if name not in failed and (out / name / "model.json").exists()]
        if done:
            ranking.write(chosen, done, teacher, costs, dataset, out, {"processes": f"{processes} at a time"})
    if failed:
        name, error = next(iter(failed.items()))
        said = f"of {len(runs)} runs {len(failed)} failed; the others are kept in {out}"
        if isinstance(error, BadInput):
            raise BadInput(f"{name}: {error} ({said})") from error
        error.add_note(f"in {name}; {said}")
        raise error
    if not done:
        raise Stopped(f"every run had to stop before it had a checkpoint: {(out / next(iter(runs)) / ranking.STOPPED).read_text()}")


def _checked(method: Method, dataset: data.Dataset, device: torch.device) -> tuple[Cost, float]:
    """What the method's step costs, found by making some, after what else a run would refuse once its folder is there."""
    recipe, images = method.recipe, len(dataset.train)
    try:
        if recipe.train.validation >= images:
            raise BadInput(f"validation={recipe.train.validation} takes all of the {images} training images: set it lower")
        if recipe.train.extra is not None:
            extra_images(recipe.train.extra, dataset)
        return step_cost(recipe, dataset, device)
    except BadInput as error:
        raise BadInput(f"method {method.name}: {error}") from None


def train_and_evaluate(recipe: Recipe, own: Path, root: Path | None, trains: bool, *, progress: Progress) -> None:
    """One job: what is missing of a run; for the teacher the evaluation alone."""
    if trains and not ((own / "model.json").exists() or (own / ranking.STOPPED).exists()):
        begun = (own / "checkpoint" / "last.safetensors").exists()
        try:
            run(recipe, own, root=root, resume=begun, overwrite=own.exists() and not begun, progress=progress)
        except Stopped as stopped:
            folder.atomic_write(own / ranking.STOPPED, json.dumps({"reason": str(stopped)}).encode())
    if not trains and recipe.teacher is not None:
        bring_records(Path(recipe.teacher), own)
        evaluated(recipe, recipe.teacher, own, data.load(recipe.data, root), progress)
    elif (own / "model.json").exists():
        evaluated(recipe, str(own), own, data.load(recipe.data, root), progress)


def _goes_on(name: str, recipe: Recipe, own: Path) -> None:
    """Raises BadInput if what the folder holds was trained with other values. Other tests are no other training: they are made anew."""
    if not (own / "recipe.toml").exists():
        return
    before = resolve(read(str(own / "recipe.toml")))
    if replace(before, evaluate=recipe.evaluate) != recipe:
        raise BadInput(
            f"--resume goes on with runs as they began, but in {name} {difference(before, recipe)}; remove {own} to train it anew"
        )
    if before != recipe:
        folder.atomic_write(own / "recipe.toml", recipe.toml().encode())
