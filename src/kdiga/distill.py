"""One recipe becomes one run folder: data, networks, training, weights. `teach` and `distill` differ only in whether there is a teacher."""

from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
from torch import nn

from kdiga import checkpoint, data, folder, models
from kdiga.errors import BadInput, Stopped
from kdiga.objectives import needs_teacher
from kdiga.recipe import Recipe
from kdiga.train import fit, pick_device
from kdiga.types import Batch, Progress


def run(
    recipe: Recipe,
    out: Path,
    *,
    root: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Train what `recipe` describes and leave recipe.toml, environment.json, log.jsonl, checkpoint/ and the weights in `out`.

    What is wrong with the input is found before the folder is touched: the objective is called once on two images. Raises BadInput,
    KeyboardInterrupt, after which `resume` goes on, and Stopped (see `train.fit`) with the last good epoch's weights in `out`.
    """
    named = [s for s in (recipe.model, recipe.teacher, recipe.data) if s is not None]
    folder.check_free(out, resume=resume, overwrite=overwrite, needed=named)
    if needs_teacher(recipe.objective) and recipe.teacher is None:
        raise BadInput(
            f"objective {recipe.objective} distils from a teacher: give --teacher MODEL (a run folder, weights or a timm: name)"
        )
    pick_device(recipe.train.device)
    dataset = data.load(recipe.data, root)
    load = partial(models.load, shape=dataset.shape, classes=len(dataset.classes), mean=dataset.mean, std=dataset.std)
    teacher = None
    if recipe.teacher is not None and needs_teacher(recipe.objective):
        models.check_trained(recipe.teacher)
        teacher = load(recipe.teacher).requires_grad_(False)
    torch.manual_seed(recipe.seed)
    model = load(recipe.model)
    if recipe.train.validation >= len(dataset.train):
        raise BadInput(f"validation={recipe.train.validation} takes all of the {len(dataset.train)} training images: set it lower")
    training, validation = data.carve(dataset.train, recipe.train.validation, recipe.seed)
    _try(recipe, model, teacher, training)
    if not resume:
        folder.start(out, overwrite=overwrite)
        folder.atomic_write(out / "recipe.toml", recipe.toml().encode())
    with folder.locked(out):
        try:
            kept, _ = fit(
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
        except Stopped:
            saved = out / "checkpoint" / "last.safetensors"
            if saved.exists():
                model.load_state_dict(checkpoint.weights(saved))
                models.save(model.cpu().eval(), out)
            raise
        model.load_state_dict(kept.state_dict())
        models.save(model.cpu().eval(), out)


def _try(recipe: Recipe, model: nn.Module, teacher: nn.Module | None, training: data.Split) -> None:
    """One call of the objective on two images and a copy of the model: options out of range and models that cannot be differentiated
    twice are found now and not when a folder has been emptied for them."""
    two = Batch(training.images(slice(0, 2)), training.y[:2], torch.arange(2))
    with torch.random.fork_rng(devices=[]):
        terms = recipe.bound()(deepcopy(model).train(), teacher, two, 0.0)
    if not all(values.isfinite().all() for values in terms.values()):
        raise BadInput(
            f"objective {recipe.objective} is not finite on the first two images with {recipe.options or 'its defaults'}"
        )
