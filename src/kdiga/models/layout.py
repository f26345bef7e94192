"""How published checkpoints differ around the same weights: prefixes, normalisation buffers; what can be read off the shapes."""

import re

from torch import Tensor, nn

from kdiga.errors import BadInput

PREFIXES = (
    "module.",
    "model.",
    "_orig_mod.",
    "body.",
    "1.",
)  # DataParallel, RobustBench, torch.compile, ours, Sequential(normalise, net)
OWNER = r"^(?:(?:normali[sz](?:e|er|ation)|norm|preprocess(?:ing)?|0)\.)?"
MEAN, STD = re.compile(OWNER + r"(?:mean|mu|new_mean)$"), re.compile(OWNER + r"(?:std|sigma|new_std)$")
UNUSED = "sub_block1."  # in TRADES' WideResNet this is a copy of block1 that its forward pass never reaches

# Layers whose weights' rows are the classes, and those whose second dimension is the image's channels: ours, timm's, torchvision's.
HEADS = (
    "linear",
    "fc",
    "head",
    "classifier",
    "head.fc",
    "heads.head",
    "classifier.1",
    "classifier.2",
    "classifier.3",
    "classifier.6",
)
STEMS = (
    "conv1",
    "conv1.0",
    "stage1.0",
    "patch_embed.proj",
    "conv_stem",
    "stem.0",
    "features.0",
    "features.0.0",
    "features.conv0",
    "conv_proj",
)

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


def unwrap(state: dict[str, Tensor], source: str) -> tuple[dict[str, Tensor], Normalisation | None]:
    """The network's own weights under their own names, and the mean and std that the file holds, per channel.

    A prefix is taken off where every name has it. Raises BadInput where only one of mean and std is there, or they are not short
    lists.
    """
    state = _stripped(state)
    means, stds = ([k for k in state if pattern.match(k)] for pattern in (MEAN, STD))
    if len(means) != len(stds) or len(means) > 1:
        raise BadInput(
            f"{source} holds a normalisation in part or twice ({', '.join(means + stds)}): remove it and give ?mean= and ?std="
        )
    own = (_numbers(state.pop(means[0]), source), _numbers(state.pop(stds[0]), source)) if means else None
    return {k: v for k, v in _stripped(state).items() if not k.startswith(UNUSED)}, own


def _stripped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((p for p in PREFIXES if state and all(k.startswith(p) for k in state)), None):
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state


def _numbers(values: Tensor, source: str) -> tuple[float, ...]:
    if values.numel() > 1024:
        raise BadInput(f"{source}: a mean or std of {values.numel()} numbers is not one per channel")
    return tuple(float(v) for v in values.flatten())


def read_off(state: dict[str, Tensor], layers: tuple[str, ...], dim: int) -> int | None:
    """The size of dimension `dim` of the first of these layers' weights that is there, or None."""
    weights = (state.get(f"{layer}.weight") for layer in layers)
    return next((w.shape[dim] for w in weights if w is not None and w.ndim > dim), None)


def fill(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy the weights in, once `mismatch` finds none. BatchNorm's counters, which files of before 2018 lack, may be absent."""
    own = network.state_dict()
    network.load_state_dict({k: state.get(k, v) for k, v in own.items()})


def mismatch(network: nn.Module, state: dict[str, Tensor]) -> str | None:
    """How the weights' names and shapes differ from the network's: at most three of each kind by name; None where they fit."""
    wanted = network.state_dict()
    missing = [k for k in wanted if k not in state and not _is_counter(k)]
    unexpected = [k for k in state if k not in wanted and not _is_counter(k)]
    other = [
        f"{k} (file {list(state[k].shape)}, model {list(wanted[k].shape)})"
        for k in wanted
        if k in state and (state[k].shape != wanted[k].shape or state[k].is_floating_point() != wanted[k].is_floating_point())
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", other))
    parts = [f"{len(names)} {kind}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}" for kind, names in kinds if names]
    return "; ".join(parts) or None


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
