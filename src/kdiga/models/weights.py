"""Models on disk: our run folders, and checkpoints that others published."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save as serialise
from torch import Tensor, nn

from kdiga.errors import BadInput
from kdiga.folder import atomic_write
from kdiga.models.build import MODELS, build, find, is_name, join, network, split, unknown
from kdiga.models.classifier import Classifier
from kdiga.models.info import ModelInfo, read_info, sizes
from kdiga.models.layout import HEADS, STEMS, Normalisation, fill, mismatch, read_off, unwrap
from kdiga.models.tensors import SUFFIXES, read_state
from kdiga.models.zoo import timm_normalisation
from kdiga.options import convert

Shape = tuple[int, int, int]
Numbers = tuple[float, ...]
# Networks whose weights are the same for every image size: 32x32 is assumed where neither the file nor the caller says.
CIFAR_FORM = ("resnet-18", "preact-resnet-18", "wrn-", "mobilenet-v2")


def save(model: Classifier, folder: Path) -> None:
    """Write `model.safetensors` and `model.json`, each whole or not at all; `load(folder)` gives an equal model."""
    folder.mkdir(parents=True, exist_ok=True)
    # clone: safetensors refuses tensors that share memory
    atomic_write(
        folder / "model.safetensors", serialise({k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()})
    )
    atomic_write(folder / "model.json", model.info.json())


def load(
    spec: str, *, shape: Shape | None = None, classes: int | None = None, mean: Numbers | None = None, std: Numbers | None = None
) -> Classifier:
    """A classifier in evaluation mode on the CPU, from

    - a name of MODELS with its options: fresh weights; shape and classes are needed (timm's come trained with `?pretrained=true`);
    - a run folder, or any folder with model.json and model.safetensors;
    - `PATH?arch=NAME` with PATH ending in one of SUFFIXES: a state dict, see `read_state`. The other options are arch's own, and
      `weights=KEY` (where in the file), `mean=0.49,0.48,0.45` and `std=...` (one number counts for all channels).

    Normalisation: the spec's mean and std, else what the model brings (run folder, buffers in the checkpoint, timm's pretrained
    configuration), else, for fresh weights, the arguments, else 0 and 1: many published CIFAR models take [0, 1] as it is, and a data
    set's own mean would silently cost accuracy. Raises BadInput where something is missing, cannot be read, does not fit, or
    where shape or classes are not those asked for.
    """
    name, options = split(spec)
    path = Path(name)
    if (mean is None) != (std is None):
        raise BadInput("mean and std belong together: give both or none")
    given = None if mean is None or std is None else (mean, std)
    if is_name(name):  # before folders: `./cnn` is the folder
        return _fresh(spec, shape, classes, given).eval()
    if path.name.endswith(SUFFIXES):
        return _checkpoint(path, options, shape, classes).eval()
    if path.is_dir():
        if options:
            raise BadInput(f"'{spec}': a run folder takes no options, model.json says everything")
        return _folder(path, shape, classes).eval()
    if "/" in name:
        raise BadInput(f"there is no folder {name}, and it does not end in {', '.join(SUFFIXES)}")
    raise unknown(name)


def check_trained(spec: str) -> None:
    """Raises BadInput for the name of an architecture, which says nothing of weights: as a teacher, or measured, it would be noise."""
    name, options = split(spec)
    if is_name(name) and options.get("pretrained", "").lower() != "true":
        raise BadInput(
            f"'{spec}' names a network without trained weights: give a run folder, or a weight file as PATH.pt?arch={name}"
        )


def _folder(path: Path, shape: Shape | None, classes: int | None) -> Classifier:
    info = read_info(path / "model.json")
    _agree(str(path), info, shape, classes)
    state, own = unwrap(read_state(path / "model.safetensors"), str(path))
    model = _rebuilt(info, state, str(path))
    if own is not None and own != tuple(tuple(b.flatten().tolist()) for b in (model.mean, model.std)):
        raise BadInput(f"{path}: model.json and model.safetensors hold different means or stds, so they are not of one model")
    return model


def _fresh(spec: str, shape: Shape | None, classes: int | None, given: Normalisation | None) -> Classifier:
    if shape is None or classes is None:
        raise BadInput(f"'{spec}' names an architecture, not weights: say shape=(channels, height, width) and classes= too")
    body = network(spec, shape, classes)
    trained = split(spec)[1].get("pretrained", "").lower() == "true"
    mean, std = (timm_normalisation(body, shape[0]) if trained else given) or ((0.0,) * shape[0], (1.0,) * shape[0])
    return Classifier(ModelInfo(spec, classes, shape, mean, std), body)


def checkpoint(
    *, arch: str | None = None, weights: str | None = None, mean: Numbers | None = None, std: Numbers | None = None
) -> None:
    """The options of a checkpoint's spec that are not arch's own."""


def _checkpoint(path: Path, text: dict[str, str], shape: Shape | None, classes: int | None) -> Classifier:
    ours = convert(checkpoint, {k: v for k, v in text.items() if k in ("arch", "weights", "mean", "std")})
    if "arch" not in ours:
        raise BadInput(f"{path} holds weights alone: say which architecture, {path}?arch=NAME, one of {', '.join(MODELS)}")
    if ("mean" in ours) != ("std" in ours):
        raise BadInput(f"{path}: mean and std belong together, give both or none")
    find(ours["arch"])
    state, own = unwrap(read_state(path, ours.get("weights")), str(path))
    k, c = read_off(state, HEADS, 0) or classes, read_off(state, STEMS, 1) or (shape[0] if shape else None)
    if shape is None and c is not None and ours["arch"].startswith(CIFAR_FORM):
        shape = (c, 32, 32)
    if k is None or c is None or shape is None:
        raise BadInput(f"{path} does not say for what it was trained: give shape=(channels, height, width) and classes=")
    mean, std = (ours["mean"], ours["std"]) if "mean" in ours else own or ((0.0,), (1.0,))
    try:
        info = ModelInfo(
            spec=join(ours["arch"], {o: v for o, v in text.items() if o not in ours}),
            classes=k,
            shape=(c, shape[1], shape[2]),
            mean=mean * c if len(mean) == 1 else mean,
            std=std * c if len(std) == 1 else std,
        )
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    _agree(str(path), info, shape, classes)
    return _rebuilt(info, state, str(path))


def _agree(source: str, info: ModelInfo, shape: Shape | None, classes: int | None) -> None:
    if shape is not None and shape != info.shape:
        raise BadInput(f"{source} takes images of {sizes(info.shape)}, {sizes(shape)} was asked for")
    if classes is not None and classes != info.classes:
        raise BadInput(f"{source} tells {info.classes} classes apart, {classes} were asked for")


def _rebuilt(info: ModelInfo, state: dict[str, Tensor], source: str) -> Classifier:
    """The model with these weights, once they are known to fit: a stranger's spec takes no more memory than its weights."""
    name, options = split(info.spec)
    info = replace(info, spec=join(name, {k: v for k, v in options.items() if k != "pretrained"}))  # the weights are here
    with torch.random.fork_rng(devices=[]):  # the first weights are overwritten, so nobody's random numbers may change for them
        if differs := mismatch(_skeleton(info), state):
            raise BadInput(
                f"{source} does not fit {info.spec} with {info.classes} classes and images of {sizes(info.shape)}: {differs}"
            )
        model = build(info)
    fill(model.body, state)
    return model


def _skeleton(info: ModelInfo) -> nn.Module:
    """The network without memory for its weights, where it can be built so: torchvision's RegNets look at theirs."""
    try:
        with torch.device("meta"):
            return network(info.spec, info.shape, info.classes)
    except (NotImplementedError, BadInput):
        return network(info.spec, info.shape, info.classes)
