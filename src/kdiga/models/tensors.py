"""Reading tensors from files that come from strangers: safetensors, and PyTorch's pickles without running what is in them."""

import re
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kdiga.errors import BadInput

SUFFIXES = (".safetensors", ".pt", ".pth", ".pth.tar", ".ckpt")
# Where published code puts the state dict, in the order in which we look; `?weights=KEY` names another.
KEYS = ("state_dict", "model_state_dict", "net", "model", "state_dict_ema", "model_ema", "ema")


def read_state(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """The state dict in a file, bare or under the first of KEYS that holds one, or under `key`; on the CPU.

    Only tensors and plain containers are read. Raises BadInput naming the file where it is absent, truncated, foreign, holds Python
    objects, or has no state dict in a known place.
    """
    content = _read(path)
    if not isinstance(content, dict):
        raise BadInput(f"{path} holds a {type(content).__name__}, not a state dict")
    if key is not None:
        if not _is_state(content.get(key)):
            raise BadInput(f"{path} has no state dict under '{key}': its keys are {_some(content)}")
        return dict(content[key])
    found = next((c for c in (content, *(content.get(k) for k in KEYS)) if _is_state(c)), None)
    if found is None:
        places = ", ".join(KEYS)
        raise BadInput(
            f"{path} has no state dict, neither bare nor under {places}: its keys are {_some(content)}; name one by ?weights="
        )
    return dict(found)


def _read(path: Path) -> object:
    try:
        if path.name.endswith(".safetensors"):
            return load_file(path)
        _refuse_lying_zip(path)
        with warnings.catch_warnings():  # about pickle protocols and archive kinds: the errors below say it
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except BadInput:
        raise
    except SafetensorError as error:
        raise BadInput(f"{path} is not a whole safetensors file: {error}") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a damaged or hostile file can make the unpickler raise anything
        if names := re.findall(r"GLOBAL ([\w.]+)", str(error)):
            raise BadInput(_objects(path, names[0])) from None
        raise BadInput(
            f"{path} is not a whole PyTorch checkpoint: truncated, or another kind of file ({type(error).__name__})"
        ) from None


def _objects(path: Path, name: str) -> str:
    convert = f"import torch; c = torch.load('{path}', weights_only=False); torch.save(c['state_dict'], 'weights.pt')"
    return (
        f"{path} contains Python objects ({name}), which are not loaded because that can run any code: if you trust its source, "
        f'keep the tensors alone with  python -c "{convert}"  (state_dict, or the key it uses) and give weights.pt'
    )


def _refuse_lying_zip(path: Path) -> None:
    """PyTorch stores its records uncompressed. A compressed one could claim any size, and that much memory would be taken."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        claimed = sum(record.file_size for record in archive.infolist())
    if claimed > path.stat().st_size:
        raise BadInput(
            f"{path} claims {claimed} bytes of records in a file of {path.stat().st_size}: it is not a PyTorch checkpoint"
        )


def _is_state(content: object) -> bool:
    """Whether this is a non-empty dict from names to ordinary tensors."""
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(
            isinstance(k, str) and isinstance(v, Tensor) and v.layout == torch.strided and v.device.type == "cpu"
            for k, v in content.items()
        )
    )


def _some(content: dict[object, object]) -> str:
    return ", ".join(str(k)[:40] for k in list(content)[:8]) + (" ..." if len(content) > 8 else "") if content else "none"
