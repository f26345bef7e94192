"""The idx format of MNIST: two zero bytes, the type (8 = uint8), the number of axes, their sizes as big-endian uint32, the values."""

import gzip
from math import prod
from pathlib import Path
from struct import unpack

import torch
from jaxtyping import UInt8
from torch import Tensor

from kdiga.data.reading import reading, refuse_bomb, take
from kdiga.errors import BadInput


def read_idx(path: Path, axes: int) -> UInt8[Tensor, "..."]:
    """The array in an idx file of uint8 with that many axes, gzipped or not. Raises BadInput naming the file."""
    with reading(path, "an idx file"):
        with path.open("rb") as f:
            gzipped = f.read(2) == b"\x1f\x8b"
        with gzip.open(path) if gzipped else path.open("rb") as stream:
            magic, sizes = stream.read(4), stream.read(4 * axes)
            if magic != bytes([0, 0, 8, axes]) or len(sizes) < 4 * axes:
                raise BadInput(
                    f"{path} is not an idx file of uint8 with {axes} axes: it starts with {magic.hex()}, not {8:06x}{axes:02x}"
                )
            shape = unpack(f">{axes}I", sizes)
            size = prod(shape)
            if size == 0:
                raise BadInput(f"{path} holds nothing: its header gives the shape {shape}")
            refuse_bomb(path, size, path.stat().st_size)
            values = take(stream, size)
            if len(values) < size:
                raise BadInput(f"{path} ends after {len(values)} bytes of {size}: delete it and fetch it again")
            if stream.read(1):
                raise BadInput(f"{path} goes on after the {size} bytes that its header promises")
        return torch.frombuffer(values, dtype=torch.uint8).view(shape)
