"""What the gallery shows, as plain tensors, and its file: one safetensors file whose header holds the models' names as JSON."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from kdiga.errors import BadInput
from kdiga.folder import atomic_write
from kdiga.types import Images, Labels, PerSample

PARTS = ("adversarial", "gradients", "clean_prediction", "adversarial_prediction")


@dataclass(frozen=True, eq=False, kw_only=True)
class Pictures:
    """Test images, and for each model in `names`: the PGD-20 images, the input gradients of the true label's cross-entropy at the
    clean images, and the predicted classes of both. On the CPU."""

    x: Images
    y: Labels
    names: tuple[str, ...]
    adversarial: dict[str, Images]
    gradients: dict[str, Images]
    clean_prediction: dict[str, Labels]
    adversarial_prediction: dict[str, Labels]


def cosine(a: Images, b: Images) -> PerSample:
    """Each sample's cosine between two gradients, in [-1, 1]; NaN where either is zero and has no direction."""
    u, v = a.flatten(1).double(), b.flatten(1).double()
    scale = u.norm(dim=1) * v.norm(dim=1)
    return torch.where(scale > 0, ((u * v).sum(1) / scale).clamp(-1, 1), torch.nan).float()


def save(pictures: Pictures, path: Path) -> None:
    """Write `path`, whole or not at all."""
    from safetensors.torch import save as serialise

    tensors = {"x": pictures.x, "y": pictures.y}
    tensors |= {f"{part}/{i}": getattr(pictures, part)[name] for part in PARTS for i, name in enumerate(pictures.names)}
    # clone: safetensors refuses tensors that share memory
    atomic_write(
        path, serialise({k: v.cpu().clone().contiguous() for k, v in tensors.items()}, {"names": json.dumps(pictures.names)})
    )


def load(path: Path) -> Pictures:
    """What `save` wrote. Raises BadInput for a missing, damaged or foreign file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as f:
            names = json.loads((f.metadata() or {})["names"])
            x, y = f.get_tensor("x"), f.get_tensor("y")
            parts = {part: {name: f.get_tensor(f"{part}/{i}") for i, name in enumerate(names)} for part in PARTS}
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist: name a pictures file that kdiga wrote") from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not a pictures file of kdiga ({error})") from None
    images = [x, *parts["adversarial"].values(), *parts["gradients"].values()]
    labels = [y, *parts["clean_prediction"].values(), *parts["adversarial_prediction"].values()]
    fits = x.ndim == 4 and x.numel() > 0 and all(v.shape == x.shape and v.dtype == torch.float32 for v in images)
    fits = fits and all(v.shape == x.shape[:1] and v.dtype == torch.int64 for v in labels)
    if not fits or not all(isinstance(name, str) for name in names):
        raise BadInput(f"{path} is not a pictures file of kdiga: images must be float32 [m, c, h, w], labels int64 [m], names text")
    return Pictures(x=x, y=y, names=tuple(names), **parts)
