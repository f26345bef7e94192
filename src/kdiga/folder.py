"""Run folders: what is written, whole or not at all. Imports no torch at the top."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from kdiga.errors import BadInput

MARKS = ("recipe.toml", "results.json", "evaluation.json", "environment.json")  # a folder with one of these is ours to overwrite


def atomic_write(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader, a crash or a full disk sees the old file or the new one, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def check_free(out: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Refuse, before any work is done, an output folder that a run would destroy or cannot go on in."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file: --out names a folder")
    filled = out.is_dir() and any(out.iterdir())
    if resume and overwrite:
        raise BadInput("--resume goes on and --overwrite starts again: give one of them")
    if resume and not (out / "recipe.toml").exists():
        raise BadInput(f"{out} holds no run to resume: start it without --resume")
    if filled and not resume and not overwrite:
        raise BadInput(f"{out} exists: give --resume to go on there, --overwrite to start again, or another --out")
    if filled and overwrite and not any((out / mark).exists() for mark in MARKS):
        raise BadInput(f"{out} was not written by kdiga and is not overwritten: give another --out")


def start(out: Path, *, overwrite: bool = False) -> None:
    """Make the folder, emptied if it may be overwritten; call `check_free` first."""
    if overwrite and out.is_dir():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / "environment.json", json.dumps(environment(), indent=1).encode())


def environment() -> dict[str, object]:
    """What a number was measured with: command, versions, git revision (of a source checkout), device, threads, time."""
    import torch

    packages = ("kdiga", "torch", "torchvision", "timm", "numpy", "pyautoattack")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "command": " ".join(["kdiga", *sys.argv[1:]]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": revision(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "device": device,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def revision() -> str | None:
    """The git commit of the source checkout that kdiga runs from, with `-dirty` if it has been changed; None when it was installed."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603, S607

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
