"""Training state on disk: one safetensors file, replaced atomically, that holds everything an uninterrupted run would have."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from kdiga.errors import BadInput
from kdiga.folder import atomic_write


def save(
    path: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, extra: dict[str, Tensor], meta: dict[str, Any]
) -> None:
    """Write the modules' states, the optimiser's momentum, the random generators, `extra` tensors and `meta` (JSON)."""
    tensors = {f"{name}/{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    momentum = optimizer.state_dict()["state"]
    tensors |= {f"momentum/{i}": s["momentum_buffer"] for i, s in momentum.items() if s.get("momentum_buffer") is not None}
    tensors |= {f"extra/{key}": value for key, value in extra.items()}
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    path.parent.mkdir(exist_ok=True)
    # copied: safetensors refuses tensors that share memory or are not contiguous
    plain = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    atomic_write(path, serialise(plain, {"kdiga": json.dumps(meta)}))


def load(path: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Restore what `save` wrote; returns `extra` and `meta`. Raises BadInput for a missing, damaged or foreign file."""
    meta, tensors = _read(path)

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    try:
        for name, module in modules.items():
            module.load_state_dict(part(f"{name}/"))
    except RuntimeError as error:
        raise BadInput(f"{path} belongs to another model: {' '.join(str(error).split())[:200]}") from None
    state = optimizer.state_dict()
    state["state"] = {int(i): {"momentum_buffer": v} for i, v in part("momentum/").items()}
    optimizer.load_state_dict(state)
    torch.set_rng_state(tensors["random/cpu"])
    if torch.cuda.is_available() and "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"])
    return part("extra/"), meta


def weights(path: Path) -> dict[str, Tensor]:
    """The state of the model that the run would have kept: the best epoch's or the moving average's, if there is one."""
    tensors = _read(path)[1]
    prefix = next(p for p in ("best/", "average/module.", "student/") if any(k.startswith(p) for k in tensors))
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as f:
            meta = json.loads(f.metadata()["kdiga"])
            tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist: nothing to resume; start again with --overwrite") from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path} is not a readable checkpoint of kdiga ({error}): start again with --overwrite") from None
    return meta, tensors
