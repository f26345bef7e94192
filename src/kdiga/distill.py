"""One recipe becomes one run folder: data, networks, training, weights. `teach` and `distill` differ only in whether there is a teacher."""

from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from kdiga import checkpoint, data, folder, models
from kdiga.errors import BadInput, Stopped
from kdiga.feed import Feed
from kdiga.objectives import SINGLE_STEP, needs_teacher
from kdiga.options import accepted
from kdiga.recipe import Recipe
from kdiga.train import fit, pick_device
from kdiga.types import Batch, Progress

WATCHED = 100  # training images at least: with fewer, chance alone makes robust accuracy fall by a fifth


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

    What is wrong with the input is found before the folder is touched: the objective is tried on two images. Raises BadInput,
    KeyboardInterrupt, after which `resume` goes on, and Stopped (see `train.fit`) with the last good epoch's weights in `out`.
    """
    train, device = recipe.train, pick_device(recipe.train.device)
    named = [s for s in (recipe.model, recipe.teacher, recipe.standard_teacher, recipe.data, train.extra) if s is not None]
    folder.check_free(out, resume=resume, overwrite=overwrite, needed=named)
    dataset = data.load(recipe.data, root)
    teacher, standard = load_teachers(recipe, dataset)
    torch.manual_seed(recipe.seed)
    model = load_model(recipe.model, dataset)
    if train.validation >= len(dataset.train):
        raise BadInput(f"validation={train.validation} takes all of the {len(dataset.train)} training images: set it lower")
    training, validation = data.carve(dataset.train, train.validation, recipe.seed)
    extra = extra_images(train.extra, dataset) if train.extra else None
    _try(recipe, model, teacher, standard, training)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # the random state that is saved is this one's
    layout = torch.channels_last if train.channels_last else torch.contiguous_format
    for network in (model, teacher, standard):
        if network is not None:
            network.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    feed = Feed(
        training.to(device),
        batch_size=train.batch_size,
        seed=recipe.seed,
        augment=train.augment,
        crop=dataset.crop,
        flip=dataset.flip,
        extra=extra.to(device) if extra is not None else None,
        extra_fraction=train.extra_fraction,
        replays=recipe.option("replays", 1),
    )
    watched = data.sample(training, max(train.validation_attacked, WATCHED)).to(device) if _one_step(recipe) else None
    memory: dict[str, Tensor] = {}
    objective = recipe.bound(standard_teacher=standard, memory=memory)
    if not resume:
        folder.start(out, overwrite=overwrite)
        folder.atomic_write(out / "recipe.toml", recipe.toml().encode())
    with folder.locked(out):
        try:
            kept, _ = fit(
                model,
                teacher,
                objective,
                feed,
                validation.to(device),
                recipe.threat,
                train,
                seed=recipe.seed,
                out=out,
                memory=memory,
                watched=watched,
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


def _one_step(recipe: Recipe) -> bool:
    """Whether training attacks by a single step, and attacks after its epochs are wanted."""
    attack = recipe.option("base", recipe.objective)  # igdm's
    return recipe.train.validation_attacked > 0 and (attack in SINGLE_STEP or recipe.option("steps", None) == 1)


def load_model(spec: str, dataset: data.Dataset) -> models.Classifier:
    """The model that `spec` names, for the images and classes of the data set."""
    return models.load(spec, shape=dataset.shape, classes=len(dataset.classes), mean=dataset.mean, std=dataset.std)


def load_teachers(recipe: Recipe, dataset: data.Dataset) -> tuple[nn.Module | None, nn.Module | None]:
    """The teacher and the standard-trained one, frozen, each only if the objective asks for it. Raises BadInput where one is not named."""
    found: list[nn.Module | None] = []
    for spec, needed, flag, what in (
        (recipe.teacher, needs_teacher(recipe.objective), "--teacher", "distils from a teacher"),
        (
            recipe.standard_teacher,
            "standard_teacher" in accepted(recipe.function),
            "--standard-teacher",
            "distils from a second, standard-trained teacher, too",
        ),
    ):
        if needed and spec is None:
            raise BadInput(f"objective {recipe.objective} {what}: give {flag} MODEL (a run folder, weights or a timm: name)")
        if needed and spec is not None:
            models.check_trained(spec)
        found.append(load_model(spec, dataset).eval().requires_grad_(False) if needed and spec is not None else None)
    return found[0], found[1]


def extra_images(spec: str, dataset: data.Dataset) -> data.Split:
    """All images of an .npz file, those set aside for testing too. Raises BadInput where they do not fit the data set."""
    found = data.load(spec if spec.startswith("npz:") else f"npz:{spec}")
    if found.shape != dataset.shape or len(found.classes) > len(dataset.classes):
        here, there = (f"{s.shape} of {len(s.classes)} classes" for s in (dataset, found))
        raise BadInput(f"extra images must be like those of {dataset.name}, {here}; {spec} holds {there}")
    return data.Split(torch.cat([found.train.x, found.test.x]), torch.cat([found.train.y, found.test.y]))


def _try(recipe: Recipe, model: nn.Module, teacher: nn.Module | None, standard: nn.Module | None, training: data.Split) -> None:
    """The objective on two images and a copy of the model, at the first and the last phase of training, forwards and backwards: options
    out of range and models that cannot be differentiated twice are found now and not when a folder has been emptied for them."""
    two = Batch(training.images(slice(0, 2)), training.y[:2], torch.arange(2))
    objective = recipe.bound(standard_teacher=standard)
    with torch.random.fork_rng(devices=[]):
        for share in (0.0, 0.999):
            copy = deepcopy(model).train()
            try:
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.train.bf16):
                    terms = objective(copy, teacher, two, share)
                loss = torch.stack([v.mean() for v in terms.values()]).sum()
                torch.autograd.grad(loss, list(copy.parameters()), allow_unused=True)
            except RuntimeError as error:
                if "not implemented" not in str(error) and "does not support" not in str(error):
                    raise
                raise BadInput(
                    f"objective {recipe.objective} differentiates {recipe.model} twice, and it cannot be: {error}; try another activation"
                ) from None
            if not all(values.isfinite().all() for values in terms.values()):
                said = f"with {recipe.options or 'its defaults'}"
                raise BadInput(f"objective {recipe.objective} is not finite on the first two images {said}")
