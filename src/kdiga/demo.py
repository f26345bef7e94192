"""The main job in two minutes: a robust teacher on scikit-learn's digits, small students by five objectives, and who stays robust."""

from pathlib import Path

import torch

from kdiga import data, folder
from kdiga.compare import compare, entry, load
from kdiga.distill import run
from kdiga.recipe import read, resolve
from kdiga.report.rows import Row
from kdiga.types import Progress

TEACHER, STUDENTS = "demo-teacher", ("demo-ce", "demo-kd", "demo-kdiga", "demo-kdiga-random", "demo-kdiga-j")


def demo(out: Path, *, seed: int = 0, overwrite: bool = False, progress: Progress | None = None) -> list[Row]:
    """Run the shipped demo recipes into folders under `out`, evaluate all models, and write results.json and report.html there."""
    folder.check_free(out, overwrite=overwrite)
    teacher = str((out / "teacher").resolve())
    flags = {name: {"seed": seed} | ({"teacher": teacher} if name != TEACHER else {}) for name in (TEACHER, *STUDENTS)}
    recipes = {name.removeprefix("demo-"): resolve(read(name), flags=flags[name]) for name in flags}
    dataset = data.load("digits")
    folder.start(out, overwrite=overwrite)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with networks as small as these, a second thread costs more than it brings
    for name, recipe in recipes.items():

        def said(what: str, done: int, total: int, *, name: str = name) -> None:
            if progress is not None:
                progress(f"{name}: {what}", done, total)

        run(recipe, out / name, progress=said)
    torch.set_num_threads(threads)
    chosen = [entry(name, str(out / name)) for name in recipes]
    first = recipes["teacher"]
    title = "Robustness through distillation: digits"
    return compare(chosen, load(chosen, dataset), dataset, first.threat, first.evaluate, out, title=title, progress=progress)
