"""The flags of each model as text: for a terminal, in Markdown and for the page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from kdiga.health import CHECKS, NAME, Flag, read
from kdiga.report.table import piped

Flags = Mapping[str, Sequence[Flag]]  # by model
MARKS = {True: ("✗", "raised"), False: ("✓", "passed"), None: ("–", "not checked")}


def load(out: Path, names: Sequence[str]) -> dict[str, list[Flag]]:
    """What was written beside each model's evaluation in the folder `out`; models without it, as in older folders, are left out."""
    places = {name: (out if len(names) == 1 else out / name) / NAME for name in names}
    return {name: read(place) for name, place in places.items() if place.exists()}


def raised(flags: Flags) -> list[tuple[str, Flag]]:
    """(model, flag) for each that is raised."""
    return [(name, flag) for name, own in flags.items() for flag in own if flag.raised]


def lines(flags: Flags) -> list[str]:
    """A line for each raised flag; if there is none, how many checks say so; then what was not checked."""
    if not flags:
        return []
    every = [flag for own in flags.values() for flag in own]
    missing = [name for name in CHECKS if any(flag.name == name and flag.raised is None for flag in every)]
    count = len(CHECKS) - len(missing)
    said = [f"Flag raised: {name}: {flag.name}: {flag.said}." for name, flag in raised(flags)]
    if not said:
        said = [f"No flag raised ({count} check{'s' if count != 1 else ''})."]
    if missing:
        asked = " (--health runs what it can)" if any("--health" in flag.said for flag in every) else ""
        said.append(f"Not checked: {', '.join(missing)}{asked}.")
    return said


def markdown(flags: Flags) -> str:
    """A table of models and checks, and the lines; nothing where there are no flags."""
    if not flags:
        return ""
    table = [(name, *(MARKS[flag.raised][1] for flag in own)) for name, own in flags.items()]
    return "\n" + piped(("is the robustness real?", *CHECKS), table) + "".join(f"\n{line}\n" for line in lines(flags))
