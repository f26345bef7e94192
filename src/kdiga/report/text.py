"""How a number is written, everywhere the same."""


def percent(fraction: float | None) -> str:
    """`41.0 %`; a dash for what was not measured."""
    return "–" if fraction is None else f"{100 * fraction:.1f} %"


def interval(low: float | None, high: float | None) -> str:
    """`37.9 to 44.1 %`."""
    return "–" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f} %"


def count(n: int) -> str:
    """Three digits and a unit: `950`, `53.5 k`, `46.2 M`."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        # 999 950 is "1.00 M", not "1000 k": the unit changes where three digits would round up to four
        if n >= size * 0.9995:
            value = n / size
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    return str(n)


def duration(seconds: float | None) -> str:
    """`4.2 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds is None:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
