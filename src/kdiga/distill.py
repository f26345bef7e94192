"""One recipe becomes one run folder: data, networks, training, weights. `teach` and `distill` differ only in whether there is a teacher."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from kdiga import data, folder, models
from kdiga.errors import BadInput
from kdiga.objectives import needs_teacher
from kdiga.recipe import Recipe
from kdiga.train import fit, pick_device
from kdiga.types import Progress


@dataclass(frozen=True)
class Run:
    """What a finished run has in memory."""

    folder: Path
    model: models.Classifier
    teacher: models.Classifier | None
    seconds: float


def run(
    recipe: Recipe,
    out: Path,
    *,
    root: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Train what `recipe` describes and leave recipe.toml, environment.json, log.jsonl, checkpoint/ and the weights in `out`.

    Everything that can be wrong with the input is found before the folder is touched. Raises BadInput, Stopped (see `train.fit`) and
    KeyboardInterrupt, after which `resume` goes on.
    """
    folder.check_free(out, resume=resume, overwrite=overwrite)
    if needs_teacher(recipe.objective) and recipe.teacher is None:
        raise BadInput(
            f"objective {recipe.objective} distils from a teacher: give --teacher MODEL (a run folder, weights or a timm: name)"
        )
    pick_device(recipe.train.device)
    dataset = data.load(recipe.data, root)
    load = partial(models.load, shape=dataset.shape, classes=len(dataset.classes), mean=dataset.mean, std=dataset.std)
    teacher = load(recipe.teacher) if recipe.teacher is not None and needs_teacher(recipe.objective) else None
    torch.manual_seed(recipe.seed)
    model = load(recipe.model)
    if recipe.train.validation >= len(dataset.train):
        raise BadInput(f"validation={recipe.train.validation} takes all of the {len(dataset.train)} training images: set it lower")
    training, validation = data.carve(dataset.train, recipe.train.validation, recipe.seed)
    if not resume:
        folder.start(out, overwrite=overwrite)
        folder.atomic_write(out / "recipe.toml", recipe.toml().encode())
    kept, seconds = fit(
        model,
        teacher,
        recipe.bound(),
        training,
        validation,
        recipe.threat,
        recipe.train,
        seed=recipe.seed,
        out=out,
        crop=dataset.crop,
        flip=dataset.flip,
        resume=resume,
        progress=progress,
    )
    model.load_state_dict(kept.state_dict())
    models.save(model.cpu().eval(), out)
    return Run(out, model, teacher.cpu() if teacher is not None else None, seconds)
