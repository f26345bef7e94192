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
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        stage, task = "", bar.add_task("", total=None)

        def show(what: str, done: int, total: int) -> None:
            nonlocal stage
            if what.partition(",")[0] != stage:
                stage = what.partition(",")[0]
                bar.reset(task)
            bar.update(task, description=what, completed=done, total=total)

        yield show


def _lines(interval: float) -> Progress:
    stage, began, last = "", time.monotonic(), 0.0

    def show(what: str, done: int, total: int) -> None:
        nonlocal stage, began, last
        now = time.monotonic()
        if what.partition(",")[0] != stage:
            stage, began, last = what.partition(",")[0], now, now
            return
        if now - last >= interval:
            last, spent = now, now - began
            rest = f", {done / spent:.1f}/s, {spent * (total - done) / done:.0f} s left" if done else ""
            print(f"{what}: {done} of {total}{rest}", file=sys.stderr, flush=True)

    return show
