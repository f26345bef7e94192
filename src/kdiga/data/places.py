"""Where files are looked for, and torchvision's downloads."""

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from textwrap import shorten

from kdiga.errors import BadInput

SYSTEM = Path("/usr/share/datasets")  # where Debian's dataset-* packages put their files


def home() -> Path:
    """Where data sets are kept when no root is given: `$KDIGA_DATA`, else `./data`."""
    return Path(os.environ.get("KDIGA_DATA") or "data").expanduser()


def locate(
    name: str, places: Sequence[Path], lacks: Callable[[Path], str], *, root: Path | None, class_name: str, hint: str
) -> Path:
    """The first of `places` that lacks nothing; `lacks` names what a place is short of, or is empty.

    Only where no root was given, torchvision's data set class `class_name` is asked to download into `home()` before giving up:
    a root on the command line is where files are, and is never written to.
    """
    found = next((p for p in places if not lacks(p)), None)
    trouble = ""
    if found is None and root is None:
        trouble = _download(class_name)
        found = next((p for p in places if not lacks(p)), None)
    if found is None:
        looked = ", ".join(f"{p} (no {lacks(p)})" if p.exists() else f"{p}" for p in places)
        raise BadInput(f"{name} was not found; looked in {looked}{trouble}: {hint}")
    return found


def _download(class_name: str) -> str:
    """Let torchvision fetch a data set; what went wrong, as the continuation of a sentence. A failure leaves no empty folders behind."""
    from torchvision import datasets

    made = [home() / class_name / "raw", home() / class_name] + ([] if home().exists() else [home()])
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)  # else a network that swallows packets looks like a hang
    try:
        getattr(datasets, class_name)(home(), download=True)
    except Exception as e:  # torchvision and urllib raise many kinds
        for folder in made:
            with suppress(OSError):  # it is not there, or not empty
                folder.rmdir()
        return f" (download failed: {shorten(str(e), 160)})"
    finally:
        socket.setdefaulttimeout(before)
    return ""
