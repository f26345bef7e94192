"""What an evaluation leaves in its folder so that it can go on: `per_sample.safetensors`, one byte per sample and column.

Its metadata hold a fingerprint of everything the outcomes depend on, and how far each attack has come. A file with another
fingerprint, or one that cannot be read, counts as absent.
"""

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiga import __version__
from kdiga.errors import BadInput
from kdiga.evaluate.stage import Record
from kdiga.folder import atomic_write
from kdiga.types import Images, Labels, Outcomes, Threat

NAME = "per_sample.safetensors"


def facts(model: nn.Module, x: Images, y: Labels, threat: Threat, seed: int, batch_size: int) -> dict[str, object]:
    """What was evaluated and how; `fingerprint` is a digest of all of it: weights, structure, images, labels and what is named here."""
    named: dict[str, object] = {
        "threat": {"norm": "l2" if threat.norm == 2 else "linf", "eps": threat.eps},
        "seed": seed,
        "batch_size": batch_size,
        "versions": {"kdiga": __version__, "torch": str(torch.__version__), "pyautoattack": version("pyautoattack")},
    }
    digest = sha256(json.dumps(named).encode())
    for part in _bytes(model, x, y):
        digest.update(part)
    return named | {"fingerprint": digest.hexdigest()}


def _bytes(model: nn.Module, x: Images, y: Labels) -> Iterator[Any]:
    yield re.sub("0x[0-9a-f]+", "", repr(model)).encode()  # the structure, without addresses in memory
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        yield name.encode()
        yield from _raw(value)
    for module in model.modules():  # numbers that a forward may use and no weight shows: a temperature, the heads of attention
        for name, value in sorted(vars(module).items()):
            if isinstance(value, Tensor):
                yield name.encode()
                yield from _raw(value)
            elif name != "training" and _plain(value):
                yield f"{name}={value!r}".encode()
    yield from _raw(y)
    for part in x.split(1024):
        yield from _raw(part)


def _plain(value: object) -> bool:
    return isinstance(value, int | float | str) or (isinstance(value, list | tuple) and all(map(_plain, value)))


def _raw(value: Tensor) -> Iterator[Any]:
    yield f"{value.dtype}{tuple(value.shape)}".encode()
    yield value.detach().cpu().reshape(-1).view(torch.uint8).numpy()


def read(out: Path, facts: dict[str, object], n: int) -> dict[str, Record]:
    """The records of an evaluation with the same fingerprint in the folder `out`, which is made; none where there is no such file.

    An older `evaluation.json` is removed: until this evaluation ends there is no result. Raises BadInput if `out` is a file.
    """
    from safetensors import SafetensorError, safe_open

    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file: name a folder")
    out.mkdir(parents=True, exist_ok=True)
    (out / "evaluation.json").unlink(missing_ok=True)
    try:
        with safe_open(out / NAME, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("fingerprint") != facts["fingerprint"]:
                return {}
            told = json.loads(about["records"])
            found = {k: Record(str(r["rows"]), int(r["done"]), float(r["seconds"]), _column(file, k, n)) for k, r in told.items()}
            return {k: r for k, r in found.items() if 0 <= r.done <= n}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _column(file: Any, name: str, n: int) -> Outcomes:
    column = file.get_slice(name)
    if column.get_shape() != [n] or column.get_dtype() != "U8":
        raise ValueError(name)
    outcomes: Outcomes = file.get_tensor(name) != 0
    return outcomes


def write(out: Path, facts: dict[str, object], columns: dict[str, Outcomes], known: dict[str, Record]) -> None:
    """Replace the file: the finished columns, and what is known of each attack."""
    from safetensors.torch import save

    every = columns | {name: r.robust for name, r in known.items()}
    told = {name: {"rows": r.rows, "done": r.done, "seconds": r.seconds} for name, r in known.items()}
    about = {"fingerprint": str(facts["fingerprint"]), "records": json.dumps(told)}
    atomic_write(out / NAME, save({name: c.to(torch.uint8) for name, c in every.items()}, metadata=about))
