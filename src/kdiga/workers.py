"""Several models evaluated at once, on a CPU: one process and one thread for each core that torch would use.

Small networks do not fill two cores with one batch. The processes leave nothing but records, in the folders where `evaluate` looks for
what an interrupted run has measured; `compare` then goes over all models as if it had been interrupted, and finds the work done.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kdiga import models
from kdiga.data import Dataset, Split
from kdiga.evaluate import evaluate
from kdiga.recipe import Testing
from kdiga.types import Progress, Threat

Said = tuple[str, str, int, int]  # (model, what is being done, done so far, out of)


def record(
    jobs: Sequence[tuple[str, str, Path]],
    dataset: Dataset,
    test: Split,
    threat: Threat,
    testing: Testing,
    progress: Progress | None,
) -> None:
    """Evaluate each (name, spec, folder) of `jobs` on `test`. Raises what a process raised, and ends the others."""
    context = get_context("spawn")
    said: Queue[Said] = context.Queue()
    fits = {"shape": dataset.shape, "classes": len(dataset.classes), "mean": dataset.mean, "std": dataset.std}
    x, y = test.x.numpy(), test.y.numpy()
    with ProcessPoolExecutor(min(torch.get_num_threads(), len(jobs)), context, _start, (said if progress else None,)) as pool:
        left = {pool.submit(_evaluate, *job, fits, x, y, threat, testing) for job in jobs}
        try:
            while left:
                done, left = wait(left, timeout=0.2)
                for future in done:
                    future.result()
                while progress is not None and not said.empty():
                    name, what, at, of = said.get()
                    progress(f"{name}: {what}", at, of)
        except BaseException:
            for process in list(pool._processes.values()):  # they would go on with the next model; what they have found is on disk
                process.terminate()
            raise


_said: "Queue[Said] | None" = None  # in a worker process, where its progress goes


def _start(said: "Queue[Said] | None") -> None:
    global _said
    _said = said
    torch.set_num_threads(1)


def _evaluate(
    name: str,
    spec: str,
    own: Path,
    fits: dict[str, object],
    x: NDArray[np.uint8],
    y: NDArray[np.int64],
    threat: Threat,
    testing: Testing,
) -> None:
    def tell(what: str, done: int, of: int) -> None:
        if _said is not None:
            _said.put((name, what, done, of))

    model = models.load(spec, **fits)  # type: ignore[arg-type]
    test = Split(torch.from_numpy(x), torch.from_numpy(y))
    evaluate(model, test.images(), test.y, threat, attacks=testing.attacks, batch_size=testing.attack_batch, out=own, progress=tell)
