"""What it takes to rebuild a model: its spec, its sizes and its normalisation. This is what `model.json` holds."""

import json
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path

from kdiga.errors import BadInput

LARGEST_FILE = 100_000  # bytes: a model.json is far below this, whatever a stranger's file says


@dataclass(frozen=True)
class ModelInfo:
    """`spec` as `build` reads it; `shape` of one image (channels, height, width); `mean` and `std` per channel, in image units.

    Raises BadInput for sizes that no image classifier has and for a normalisation that does not match the channels.
    """

    spec: str
    classes: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(1 <= n <= 1024 for n in self.shape):
            raise BadInput(f"an image of shape {sizes(self.shape)} is not supported: channels, height and width must be 1 to 1024")
        if not 2 <= self.classes <= 100_000:
            raise BadInput(f"{self.classes} classes are not supported: use 2 to 100000")
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise BadInput(f"{self.shape[0]} channels need as many means and stds, got {len(self.mean)} and {len(self.std)}")
        if not all(isfinite(m) for m in self.mean) or not all(isfinite(s) and s > 0 for s in self.std):
            raise BadInput(f"mean {self.mean} and std {self.std} must be finite, and std above 0")

    def json(self) -> bytes:
        """The text of a model.json; `read_info` gives an equal ModelInfo back."""
        return (json.dumps(asdict(self), indent=1) + "\n").encode()


def read_info(path: Path) -> ModelInfo:
    """The ModelInfo in a model.json, which may come from a stranger: BadInput names the file and what is wrong with it."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise BadInput(f"{path} is not a model.json: larger than {LARGEST_FILE} bytes")
        table = json.loads(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, BadInput) else BadInput(f"{path} is not JSON: {error}") from None
    if not isinstance(table, dict):
        raise BadInput(f"{path} holds no table: spec, classes, shape, mean and std expected")
    for name, (right, kind) in FIELDS.items():
        if name not in table or not right(table[name]):
            raise BadInput(
                f"{path}: {name} must be {kind}, {'got ' + repr(table[name])[:60] if name in table else 'but it is absent'}"
            )
    mean, std = (tuple(float(v) for v in table[name]) for name in ("mean", "std"))
    channels, height, width = table["shape"]
    try:
        return ModelInfo(table["spec"], table["classes"], (channels, height, width), mean, std)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _numbers(value: object) -> bool:
    return isinstance(value, list) and all(_whole(v) or isinstance(v, float) for v in value)


FIELDS = {
    "spec": (lambda v: isinstance(v, str), "text"),
    "classes": (_whole, "a whole number"),
    "shape": (lambda v: isinstance(v, list) and len(v) == 3 and all(map(_whole, v)), "three whole numbers"),
    "mean": (_numbers, "a list of numbers"),
    "std": (_numbers, "a list of numbers"),
}


def sizes(shape: tuple[int, ...]) -> str:
    """(3, 32, 32) -> "3x32x32"."""
    return "x".join(map(str, shape))
