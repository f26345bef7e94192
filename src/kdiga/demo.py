"""The main job in three minutes: a robust teacher on scikit-learn's digits, small students by four objectives, and who stays robust."""

from dataclasses import replace
from pathlib import Path

from kdiga import data, folder
from kdiga.compare import Entry, compare, load
from kdiga.distill import run
from kdiga.recipe import read, resolve
from kdiga.report.rows import Row
from kdiga.types import Progress

TEACHER, STUDENTS = "demo-teacher", ("demo-ce", "demo-kd", "demo-kdiga", "demo-kdiga-random")


def demo(out: Path, *, seed: int = 0, overwrite: bool = False, progress: Progress | None = None) -> list[Row]:
    """Run the shipped demo recipes into folders under `out`, evaluate all models, and write results.json and report.html there."""
    folder.check_free(out, overwrite=overwrite)
    recipes = {name: replace(resolve(read(name)), seed=seed) for name in (TEACHER, *STUDENTS)}
    dataset = data.load("digits")
    folder.start(out, overwrite=overwrite)
    chosen = []
    for name, recipe in recipes.items():
        short = name.removeprefix("demo-")
        if recipe.teacher is not None:
            recipe = replace(recipe, teacher=str(out / TEACHER.removeprefix("demo-")))

        def said(what: str, done: int, total: int, *, short: str = short) -> None:
            if progress is not None:
                progress(f"{short}: {what}", done, total)

        run(recipe, out / short, progress=said)
        chosen.append(Entry(short, str(out / short)))
    first = recipes[TEACHER]
    title = "Robustness through distillation: digits"
    return compare(chosen, load(chosen, dataset), dataset, first.threat, first.evaluate, out, title=title, progress=progress)
