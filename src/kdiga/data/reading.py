"""Reading files from strangers: one clear line for whatever is wrong with them, and no memory taken on a header's word alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

from kdiga.errors import BadInput

CHUNK = 2**24  # bytes read at a time
FREE = 2**30  # bytes that any file may unpack to
RATIO = 100  # above that, unpacked bytes per stored byte: photographs reach 2, drawings on black 10


@runtime_checkable
class Stream(Protocol):
    """A binary file, or what unpacks one."""

    def read(self, size: int, /) -> bytes: ...


@contextmanager
def reading(path: Path | str, kind: str) -> Iterator[None]:
    """Anything that fails inside becomes a BadInput naming the file: decoders of damaged files raise nearly every exception."""
    try:
        yield
    except BadInput:
        raise
    except Exception as e:
        reason = (e.strerror if isinstance(e, OSError) else "") or " ".join(str(e).split()) or type(e).__name__
        raise BadInput(f"{path} cannot be read as {kind}: {reason[:200]}") from e


def take(stream: Stream, size: int) -> bytearray:
    """The next `size` bytes, fewer at the end of the stream. Memory grows with what is there, not with what was asked for."""
    held = bytearray()
    while len(held) < size and (chunk := stream.read(min(CHUNK, size - len(held)))):
        held += chunk
    return held


def refuse_bomb(where: Path | str, unpacked: int, stored: int) -> None:
    """BadInput for a file that claims to unpack to far more than images do: above 1 GiB and above 100 times its size on disk."""
    if unpacked > max(FREE, RATIO * stored):
        raise BadInput(f"{where} claims to hold {unpacked} bytes of images in {stored} bytes on disk: damaged or hostile, not read")
