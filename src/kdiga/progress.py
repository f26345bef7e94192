"""Live progress: a bar with rate and time left on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kdiga.types import Progress


@contextmanager
def live(interval: float = 10.0) -> Iterator[Progress]:
    """A callback (what, done, total) that shows on stderr how far long work has come; lines come every `interval` seconds."""
    if sys.stderr.isatty():
        yield from _bar()
    else:
        yield _lines(interval)


def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            stage = what.partition(",")[0]
            if stage not in tasks:
                tasks[stage] = bar.add_task(what, total=total, completed=done)
            bar.update(tasks[stage], description=what, completed=done, total=total)
            if done >= total:
                bar.remove_task(tasks.pop(stage))

        yield show


def _lines(interval: float) -> Progress:
    began: dict[
        str, tuple[float, int]
    ] = {}  # each stage's first sight: when, and how much had been done (more than 0 after a resume)
    last = time.monotonic()

    def show(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        start, before = began.setdefault(what.partition(",")[0], (now, done))
        if now - last >= interval:
            last = now
            rate = (done - before) / (now - start) if now > start else 0.0
            rest = f", {rate:.1f}/s, {(total - done) / rate:.0f} s left" if rate else ""
            print(f"{what}: {done} of {total}{rest}", file=sys.stderr, flush=True)

    return show
