"""Run folders: what is written, whole or not at all. Imports no torch at the top."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from kdiga.errors import BadInput


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


def check_free(
    out: Path, *, resume: bool = False, overwrite: bool = False, mark: str = "recipe.toml", needed: Sequence[str] = ()
) -> None:
    """Refuse, before any work is done, an output folder that a run would destroy or cannot go on in.

    A run that can be resumed has left the file `mark`. `needed` are the models and data that the run reads: `--overwrite` may not empty a
    folder that holds one of them.
    """
    if ".." in out.parts and out.resolve() != out.absolute():
        raise BadInput(f"{out} leads through '..': name the folder itself, {out.resolve()}")
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file: --out names a folder")
    if resume and overwrite:
        raise BadInput("--resume goes on and --overwrite starts again: give one of them")
    if resume and not (out / mark).exists():
        raise BadInput(f"{out} holds nothing to resume: start it without --resume")
    if resume or not (out.is_dir() and any(out.iterdir())):
        return
    if not overwrite:
        raise BadInput(f"{out} exists: give --resume to go on there, --overwrite to start again, or another --out")
    here = out.resolve()
    if not _ours(out) or Path.cwd().resolve().is_relative_to(here):
        raise BadInput(f"{out} was not written by kdiga, or is where you are, and is not overwritten: give another --out")
    for name in needed:
        path = Path(name.removeprefix("npz:").removeprefix("folder:").partition("?")[0])
        if path.exists() and path.resolve().is_relative_to(here):
            raise BadInput(f"{name} lies in {out}, which --overwrite would empty: give another --out")


def _ours(out: Path) -> bool:
    try:
        return str(json.loads((out / "environment.json").read_text())["command"]).startswith("kdiga")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def start(out: Path, *, overwrite: bool = False) -> None:
    """Make the folder, emptied if it may be overwritten; call `check_free` first."""
    if overwrite and out.is_dir():
        with locked(out):  # another run may be in it
            shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / "environment.json", json.dumps(environment(), indent=1).encode())


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep a second process out of the folder. Raises BadInput if one is in it. (Not where the system has no `flock`.)"""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (out / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"another run is writing to {out}: wait for it, or give another --out") from None
        yield


def environment() -> dict[str, object]:
    """What a number was measured with: command, versions, git revision (of a source checkout), device, threads, time."""
    import torch

    packages = ("kdiga", "torch", "torchvision", "timm", "numpy", "pyautoattack")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
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


def _processor() -> str:
    try:  # Linux says it nowhere else
        return (
            Path("/proc/cpuinfo").read_text().partition("model name")[2].partition(":")[2].partition("\n")[0].strip()
            or platform.machine()
        )
    except OSError:
        return platform.processor() or platform.machine()


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
