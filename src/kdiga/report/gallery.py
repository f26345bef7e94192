"""The gallery: what the models do with a dozen images, as small PNG pictures inside the page."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import inf, isnan

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from kdiga.report.pictures import Pictures, cosine
from kdiga.types import Images, Threat

LOW, MIDDLE, HIGH = (
    (0, 62, 120),
    (128, 128, 128),
    (255, 214, 80),
)  # dark blue, mid grey, yellow: told apart in grey and by the colour-blind
SIDE = 64  # larger pictures are drawn with fewer pixels, or a page of ImageNet pictures would weigh tens of megabytes


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One small picture: its data URI, what it shows in words, and the lines under it (text, and right or wrong where that
    applies)."""

    uri: str
    alt: str
    lines: tuple[tuple[str, bool | None], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One model's cells, one per image, and a note on all of them."""

    name: str
    note: str
    cells: tuple[Cell, ...]


def diverging(v: Float[Tensor, "c h w"], scale: float) -> UInt8[Tensor, "h w 3"]:
    """Signed values as colours: 0 is mid grey, and values at or beyond -scale and +scale are the two ends. One channel runs from
    blue to yellow; three channels are shown as red, green and blue, each from dark to bright; other numbers of channels are
    averaged first."""
    t = (v / scale if scale > 0 else torch.zeros_like(v)).clamp(-1, 1)
    if len(t) == 3:
        return (127.5 + 127.5 * t).add(0.5).floor().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()
    t = t.mean(0)[..., None]
    low, middle, high = (torch.tensor(c, dtype=torch.float32) for c in (LOW, MIDDLE, HIGH))
    return torch.where(t < 0, middle + (middle - low) * t, middle + (high - middle) * t).round().to(torch.uint8)


def natural(x: Float[Tensor, "c h w"]) -> UInt8[Tensor, "h w 3"]:
    """An image in [0, 1] as it is: three channels in colour, others as the grey of their mean."""
    grey = x if len(x) == 3 else x.mean(0, keepdim=True).expand(3, -1, -1)
    return (255 * grey).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()


def data_uri(pixels: UInt8[Tensor, "h w 3"]) -> str:
    """The pixels as a PNG inside a URI."""
    from PIL import Image

    file = BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + b64encode(file.getvalue()).decode()


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The rows of the gallery's table: the images, then one strip per model in each group."""

    images: tuple[Cell, ...]
    gradients: tuple[Strip, ...]
    perturbations: tuple[Strip, ...]
    attacked: tuple[Strip, ...]
    signed_colour: bool  # three channels: no one colour scale to draw as a key


def gallery(p: Pictures, *, teacher: str | None, order: Sequence[str], classes: Sequence[str], threat: Threat) -> Gallery:
    """`order` says which models, from top to bottom; gradients are compared with those of `teacher`, when there is one."""

    def label(index: int) -> str:
        return classes[index] if 0 <= index < len(classes) else str(index)

    true = [label(int(i)) for i in p.y]
    images = [
        Cell(uri=data_uri(natural(v)), alt=f"test image of class {t}", lines=((t, None),))
        for v, t in zip(_small(p.x), true, strict=True)
    ]
    return Gallery(
        images=tuple(images),
        gradients=tuple(_gradients(p, name, teacher, true) for name in order),
        perturbations=tuple(_perturbations(p, name, true, threat) for name in order),
        attacked=tuple(_attacked(p, name, label) for name in order),
        signed_colour=p.x.shape[1] == 3,
    )


def _gradients(p: Pictures, name: str, teacher: str | None, true: Sequence[str]) -> Strip:
    uris = [data_uri(diverging(v, v.abs().flatten().quantile(0.99).item())) for v in _small(p.gradients[name], signed=True)]
    alts = [f"input gradient of {name} at the image of class {t}" for t in true]
    if teacher is None or name == teacher:
        return Strip(name=name, note="", cells=tuple(Cell(uri=u, alt=a) for u, a in zip(uris, alts, strict=True)))
    aligned = cosine(p.gradients[name], p.gradients[teacher])
    defined = aligned[~aligned.isnan()]
    note = f"mean cosine {signed(defined.mean().item())}" if len(defined) else "no cosine: a gradient is zero"
    lines = ["cos –" if isnan(c) else f"cos {signed(c)}" for c in aligned.tolist()]
    return Strip(
        name=name, note=note, cells=tuple(Cell(uri=u, alt=a, lines=((c, None),)) for u, a, c in zip(uris, alts, lines, strict=True))
    )


def _perturbations(p: Pictures, name: str, true: Sequence[str], threat: Threat) -> Strip:
    moved = _small(p.adversarial[name] - p.x, signed=True)
    uris = [data_uri(diverging(v, threat.eps if threat.norm == inf else v.abs().max().item())) for v in moved]
    alts = [f"PGD-20 perturbation against {name} of the image of class {t}" for t in true]
    return Strip(name=name, note="", cells=tuple(Cell(uri=u, alt=a) for u, a in zip(uris, alts, strict=True)))


def _attacked(p: Pictures, name: str, label: Callable[[int], str]) -> Strip:
    y, before, after = p.y.tolist(), p.clean_prediction[name].tolist(), p.adversarial_prediction[name].tolist()
    cells = [
        Cell(
            uri=data_uri(natural(v)),
            alt=f"PGD-20 image against {name}, class {label(t)}, predicted {label(b)} before the attack and {label(a)} after it",
            lines=((label(b), b == t), (label(a), a == t)),
        )
        for v, t, b, a in zip(_small(p.adversarial[name]), y, before, after, strict=True)
    ]
    right, left = (sum(i == t for i, t in zip(predicted, y, strict=True)) for predicted in (before, after))
    return Strip(name=name, note=f"{right} of {len(y)} right before, {left} after", cells=tuple(cells))


def signed(v: float) -> str:
    """Two decimals and a true minus sign."""
    return f"{v:.2f}".replace("-", "−") if round(v, 2) else "0.00"


def _small(x: Images, *, signed: bool = False) -> Float[Tensor, "b c u v"]:
    """Large pictures with at most SIDE pixels a side: areas averaged, but signed values picked one by one, because their mean is
    near zero."""
    if max(x.shape[2:]) <= SIDE:
        return x
    if signed:
        every = -(-max(x.shape[2:]) // SIDE)
        return x[:, :, ::every, ::every]
    scale = SIDE / max(x.shape[2:])
    size = [max(1, round(n * scale)) for n in x.shape[2:]]
    return torch.nn.functional.interpolate(x, size=size, mode="area")
