"""Files inside a .tar.gz, read in one pass: nothing is written to disk, no link is followed."""

import gzip
import io
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from kdiga.data.reading import CHUNK, Stream, reading, refuse_bomb


class Bounded(io.RawIOBase):
    """The contents of a gzip file; raises BadInput once there are far more of them than of images."""

    def __init__(self, path: Path, stream: Stream) -> None:
        self.path, self.stream, self.stored, self.unpacked = path, stream, path.stat().st_size, 0

    def read(self, size: int = -1, /) -> bytes:
        """The next `size` bytes."""
        data = self.stream.read(size)
        self.unpacked += len(data)
        refuse_bomb(self.path, self.unpacked, self.stored)
        return data


def members(path: Path, folder: str, wanted: Collection[str]) -> Iterator[tuple[str, Stream]]:
    """The name and open stream of each regular file FOLDER/NAME in the archive with NAME in `wanted`; use it before the next."""
    with reading(path, "a .tar.gz file"), gzip.open(path) as unpacked:
        stream = Bounded(path, unpacked)
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                *_, parent, name = ("", "", *PurePosixPath(member.name).parts)
                if parent == folder and name in wanted and member.isreg() and not member.issparse():
                    yield name, archive.extractfile(member) or io.BytesIO()
        while stream.read(CHUNK):  # to the end, where the checksum is
            pass
