"""Chart geometry: numbers in, positions out, in the units of an SVG view box; `templates/plot.html` draws them.

Charts are our own SVG because its text and lines then take their colours from the page, light or dark, and stay small.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, floor, log10

COLOURS, SHAPES = 6, 5  # coprime, so 30 models differ in colour or shape
POLYGONS: dict[int, tuple[tuple[float, float], ...]] = {  # of area pi, as the unit circle
    1: ((-0.89, -0.89), (0.89, -0.89), (0.89, 0.89), (-0.89, 0.89)),
    2: ((0, -1.55), (1.35, 0.78), (-1.35, 0.78)),
    3: ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    4: ((0, 1.55), (1.35, -0.78), (-1.35, -0.78)),
}
LETTER, LINE = 8.2, 15.0  # room for a letter and a line of a label at the larger of its two font sizes, in view box units
# 1, 2 and 5 milliseconds to 500 hours; in minutes and hours where a reader would say it so
TIMES = tuple(
    m * t for t in (0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 36_000.0, 360_000.0) for m in (1, 2, 5) if m * t != 50
)
Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Style:
    """How a model looks in every plot: a CSS colour class (0 is the ink colour, for teachers) and a marker."""

    colour: int
    shape: int


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A marker of radius r, with a vertical bar (its two ends), and where its words go if there is room: (x, top, text-anchor)."""

    at: Point
    style: Style
    r: float
    title: str
    bar: Point | None = None
    words: tuple[str, ...] = ()
    label: tuple[float, float, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Everything a template needs to draw one chart."""

    title: str
    width: float
    height: float
    box: Box  # the plotting area
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    x_name: str
    y_name: str
    lines: list[tuple[Style, str]] = field(default_factory=list)  # style, polyline points
    marks: list[Mark] = field(default_factory=list)
    rule: tuple[float, str] | None = None  # a vertical line, and what it says
    level: tuple[float, str] | None = None  # a horizontal one
    diagonal: str | None = None  # polyline points


def styles(names: Sequence[str], teachers: Sequence[str]) -> dict[str, Style]:
    """One look per model: teachers in ink, the others through the colours, then the shapes."""
    others = [name for name in names if name not in teachers]
    look = {name: Style(1 + i % COLOURS, i % SHAPES) for i, name in enumerate(others)}
    return {name: look.get(name) or Style(0, list(teachers).index(name) % SHAPES) for name in names}


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten apart) from at or below `low` to at or above `high`."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / about
    power = 10.0 ** floor(log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    # 1e-9: a limit that is a tick up to rounding error does not get one more beyond it
    return [step * i for i in range(floor(low / step + 1e-9), ceil(high / step - 1e-9) + 1)]


def times(low: float, high: float) -> list[float]:
    """Round times in seconds, about eight at most, from at or below `low` to at or above `high`: the ticks of a log axis."""
    first = max((i for i, t in enumerate(TIMES[:-1]) if t <= low), default=0)
    last = next((i for i, t in enumerate(TIMES) if i > first and t >= high), len(TIMES) - 1)
    step = -(-(last - first) // 7)
    return [TIMES[max(i, 0)] for i in range(last, first - step, -step)][::-1]


def label(marks: Sequence[Mark], area: Box) -> list[Mark]:
    """Each mark's words to its right, left, above or below: the first place inside `area` that touches nothing. Where none does the
    mark stays without words; the legend has them."""
    bodies = [(m.at[0] - m.r, m.at[1] - m.r, m.at[0] + m.r, m.at[1] + m.r) for m in marks]
    taken = bodies + [(m.at[0] - 4, m.bar[0], m.at[0] + 4, m.bar[1]) for m in marks if m.bar]
    done = []
    for mark, body in zip(marks, bodies, strict=True):
        wide, high = LETTER * max((len(w) for w in mark.words), default=0), LINE * len(mark.words)
        (x, y), top, bottom = mark.at, min((body[1], *(mark.bar or ()))), max((body[3], *(mark.bar or ())))
        places = {
            "start": (body[2] + 5, y - high / 2),
            "end": (body[0] - 5, y - high / 2),
            "above": (x, top - high - 3),
            "below": (x, bottom + 3),
        }
        for anchor, (at, over) in places.items():
            left = at - {"start": 0.0, "end": wide}.get(anchor, wide / 2)
            rect = (left, over, left + wide, over + high)
            if wide and _inside(rect, area) and not any(_touch(rect, other) for other in taken):
                taken.append(rect)
                mark = replace(mark, label=(at, over, anchor if anchor in ("start", "end") else "middle"))
                break
        done.append(mark)
    return done


def outline(shape: int, x: float, y: float, r: float) -> str:
    """The SVG path of a marker around (x, y) with about the area of a circle of radius r."""
    if shape == 0:
        return f"M{x - r:.1f},{y:.1f}a{r:.1f},{r:.1f} 0 1 0 {2 * r:.1f},0a{r:.1f},{r:.1f} 0 1 0 {-2 * r:.1f},0Z"
    return "M" + "L".join(f"{x + r * u:.1f},{y + r * v:.1f}" for u, v in POLYGONS[shape]) + "Z"


def shortened(name: str, most: int = 24) -> str:
    """The name, or its beginning and an ellipsis."""
    return name if len(name) <= most else name[: most - 1] + "…"


def path(points: Sequence[Point]) -> str:
    """The `points` attribute of an SVG polyline."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def scale(at: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    """The linear map that takes the first tick to `start` and the last to `end`."""
    return lambda v: start + (v - at[0]) / (at[-1] - at[0]) * (end - start)


def _inside(a: Box, b: Box) -> bool:
    return a[0] >= b[0] and a[1] >= b[1] and a[2] <= b[2] and a[3] <= b[3]


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
