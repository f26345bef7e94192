"""Long jobs side by side, each in a process with one thread: small networks do not fill two cores with one batch.

A process is given its next job when it has ended one; it learns of the parent's end by the pipe between them, so none is left behind.
"""

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType

import torch

from kdiga.types import Progress

Work = Callable[..., None]  # importable by name; takes a job's arguments and `progress=`
Jobs = Mapping[str, tuple[object, ...]]  # arguments by the job's name


def each(work: Work, jobs: Jobs, processes: int, progress: Progress | None) -> dict[str, Exception]:
    """Do all jobs, `processes` at a time; with one it is this process. Returns the errors of those that failed: the others are done.

    Ctrl-C and SIGTERM tell every process once, wait for what it then saves and raise KeyboardInterrupt; a second one does not wait.
    """
    tell = progress or (lambda what, done, total: None)
    if processes > 1 and len(jobs) > 1:
        return _side_by_side(work, jobs, min(processes, len(jobs)), tell)
    failed: dict[str, Exception] = {}
    for name, arguments in jobs.items():
        try:
            work(*arguments, progress=_named(name, tell))
        except Exception as error:
            failed[name] = error
    return failed


def _named(name: str, tell: Progress) -> Progress:
    return lambda what, done, total: tell(f"{name}: {what}", done, total)


def _side_by_side(work: Work, jobs: Jobs, processes: int, tell: Progress) -> dict[str, Exception]:
    waiting, failed = list(jobs), {}
    idle: list[tuple[Connection, SpawnProcess]] = []
    busy: dict[Connection, tuple[SpawnProcess, str]] = {}
    with _stopping_by_signal():
        try:
            while waiting or busy:
                while waiting and len(busy) < processes:
                    pipe, process = idle.pop() if idle else _started(work)
                    busy[pipe] = (process, waiting.pop(0))
                    pipe.send(jobs[busy[pipe][1]])
                ready = wait(list(busy))
                for pipe in [p for p in busy if p in ready]:
                    process, name = busy[pipe]
                    message = _heard(pipe, process)
                    if isinstance(message, tuple):
                        _named(name, tell)(*message)
                        continue
                    del busy[pipe]
                    if process.is_alive():
                        idle.append((pipe, process))
                    if message is not None:
                        failed[name] = message
                    tell("runs", len(jobs) - len(waiting) - len(busy), len(jobs))
        except BaseException:
            _end([process for process, _ in busy.values()])
            raise
        finally:
            for pipe, _ in idle:
                pipe.close()
    for _, process in idle:
        process.join()
    return failed


def _heard(pipe: Connection, process: SpawnProcess) -> tuple[str, int, int] | Exception | None:
    """What the process has to say: how far it is, how its job has ended, or that it is no more."""
    try:
        message: tuple[str, int, int] | Exception | None = pipe.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        return RuntimeError(f"its process ended with code {process.exitcode}: out of memory?")
    return message


def _started(work: Work) -> tuple[Connection, SpawnProcess]:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(work, theirs), daemon=True)
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is threading.main_thread():
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # inherited: Ctrl-C in a terminal must not end a process that is still importing
    process.start()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, before)
    theirs.close()
    return ours, process


def _serve(work: Work, pipe: Connection) -> None:
    """In its own process: do what the parent sends until it hangs up. Progress goes back as a tuple, the end as an error or None."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C in a terminal reaches the parent alone, which tells each process: told twice, a run would not save
    torch.set_num_threads(1)
    try:
        while True:
            arguments, error = pipe.recv(), None
            try:
                work(*arguments, progress=lambda *said: pipe.send(said))
            except Exception as raised:
                error = _portable(raised)
            pipe.send(error)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass


def _portable(error: Exception) -> Exception:
    """The error with where it came from, in a form that survives the way to another process."""
    error.add_note(traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    return error


def _end(processes: list[SpawnProcess]) -> None:
    """Ask them to end and wait until they have; interrupted while waiting, end them at once."""
    for process in processes:
        process.terminate()
    try:
        for process in processes:
            process.join()
    except KeyboardInterrupt:
        for process in processes:
            process.kill()


@contextmanager
def _stopping_by_signal() -> Iterator[None]:
    """Inside, SIGINT (also where a shell has it ignored) and SIGTERM raise KeyboardInterrupt."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
