"""What the table shows, in one sentence that follows from its numbers; before it, what the table will cost."""

from collections.abc import Callable, Sequence

from kdiga.evaluate.cost import Cost
from kdiga.report.rows import Row
from kdiga.report.text import duration, interval, percent
from kdiga.stats import wilson

MANY = 5  # more models than this are told as a range


def verdict(rows: Sequence[Row]) -> str:
    """How much of the teacher's AutoAttack accuracy each student keeps, and whether the 95 % intervals separate the best KDIGA from
    the best KD (without those two: the best model from the next)."""
    measured = [r for r in rows if r.autoattack is not None]
    if not rows:
        return "There is no result to report."
    if not measured:
        return "No model was attacked with AutoAttack, so nothing here says how robust a model is."
    threats = sorted({r.threat for r in measured if r.threat})
    if len(threats) > 1:
        return (
            f"The models were attacked under different threats ({', '.join(threats)}); their robust accuracies cannot be compared."
        )
    missing = [r.name for r in rows if r.autoattack is None]
    tail = f"; {_join(missing)} {'was' if len(missing) == 1 else 'were'} not attacked with AutoAttack" if missing else ""
    return (_alone(measured[0]) if len(measured) == 1 else _compared(measured)) + tail + "."


def expected(each: Cost, n: int, whole: int) -> str:
    """What attacking n images of `whole` takes, and all of them, and how well n images tell an accuracy."""
    low, high = wilson(n // 2, n)
    said = (
        f"Attacking {n} images takes {duration(each.low * n)} if all break at once, {duration(each.high * n)} if all withstand "
        f"everything; each accuracy is then known to ± {50 * (high - low):.1f} points or better (95 %)."
    )
    return said if n >= whole else f"{said} All {whole} test images: {duration(each.low * whole)} to {duration(each.high * whole)}."


def _alone(row: Row) -> str:
    around = f" (95 % interval {interval(row.low, row.high)})" if row.low is not None and row.high is not None else ""
    clean, robust = percent(row.clean), percent(row.autoattack)
    return f"{row.name} classifies {clean} of the {row.n} images correctly, and {robust} under AutoAttack{around}"


def _reached(row: Row) -> str:
    """`30.0 % (28.0 to 32.0 %)`: never without its interval where one is known."""
    return percent(row.autoattack) + (f" ({interval(row.low, row.high)})" if row.low is not None and row.high is not None else "")


def _compared(measured: Sequence[Row]) -> str:
    teachers, others = [r for r in measured if r.role == "teacher"], [r for r in measured if r.role != "teacher"]
    if len(teachers) != 1:  # two teachers: no single accuracy to keep
        said = _each(measured, _reached, ("reaches", "reach"), " robust accuracy under AutoAttack")
    elif _robust(teachers[0]) == 0:
        said = "The teacher has no robust accuracy under AutoAttack to hand on: "
        said += _each(others, _reached, ("reaches", "reach"), "")
    else:
        whole = _robust(teachers[0])
        said = _each(
            others, lambda r: _share(_robust(r) / whole), ("keeps", "keep"), " of the teacher's robust accuracy under AutoAttack"
        )
    return said + (_separated(*_pair(others)) if len(others) > 1 else "")


def _each(rows: Sequence[Row], text: Callable[[Row], str], verb: tuple[str, str], unit: str) -> str:
    """`KD keeps 1 % of it, KDIGA 33 %`; a range when there are many."""
    if len(rows) > MANY:
        worst, best = min(rows, key=_robust), max(rows, key=_robust)
        return f"{len(rows)} models {verb[1]} between {text(worst)} ({worst.name}) and {text(best)} ({best.name}){unit}"
    first, *rest = rows
    return ", ".join([f"{first.name} {verb[0]} {text(first)}{unit}", *(f"{r.name} {text(r)}" for r in rest)])


def _pair(rows: Sequence[Row]) -> tuple[Row, Row]:
    """The two rows whose intervals matter most, the more robust one first."""
    ranked = sorted(rows, key=_robust, reverse=True)
    families = [[r for r in ranked if (r.objective or r.name).lower() in names] for names in (("kdiga", "kdiga_j"), ("kd",))]
    named = [family[0] if family else None for family in families]
    pair = [r for r in named if r is not None] if None not in named else ranked[:2]
    first, second = sorted(pair, key=_robust, reverse=True)
    return first, second


def _separated(first: Row, second: Row) -> str:
    if _robust(first) == _robust(second):
        return f"; {first.name} and {second.name} are equal"
    ahead = f"; {first.name} is ahead of {second.name}"
    if first.low is None or second.high is None:
        return f"{ahead}, without intervals to say by chance or not"
    return (
        f"{ahead} and their 95 % intervals do not overlap"
        if first.low > second.high
        else f"{ahead}, but their 95 % intervals overlap"
    )


def _share(share: float) -> str:
    """Whole per cent; a decimal where rounding would say nothing or everything was kept and that is not so."""
    if 0 < share < 0.0005:
        return "less than 0.1 %"
    return f"{100 * share:.0f} %" if round(100 * share) not in (0, 100) or share in (0, 1) else f"{100 * share:.1f} %"


def _robust(row: Row) -> float:
    return row.autoattack or 0.0  # only asked of rows that have it


def _join(names: Sequence[str]) -> str:
    if len(names) > MANY:
        return f"{len(names)} models"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
