"""One model attacked and measured: a job for a process of its own, which leaves its numbers in the model's folder as it finds them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kdiga import data, models
from kdiga.attacks.guard import guarded
from kdiga.evaluate import Evaluation, evaluate, records
from kdiga.evaluate.stage import stream
from kdiga.folder import atomic_write
from kdiga.measures import MEASURES
from kdiga.options import accepted
from kdiga.recipe import Testing
from kdiga.types import Images, Labels, Measure, PerSample, Progress, Threat

NAME = "measures.safetensors"  # in each model's folder: a number for each image and measure, and a digest of what each depends on
Fits = Mapping[str, Any]  # what a spec is loaded for: shape, classes, mean, std
Known = dict[str, tuple[str, PerSample]]  # by measure: the digest, and the numbers


@dataclass(frozen=True)
class Job:
    """What is measured of one model: `measures` with their options, against `teacher`, which is None where none of them compares."""

    spec: str
    teacher: str | None
    measures: Mapping[str, Mapping[str, Any]]
    fits: Fits
    threat: Threat
    testing: Testing
    device: torch.device

    def load(self) -> tuple[models.Classifier, models.Classifier | None]:
        """The model and the teacher, on the device."""
        model = models.load(self.spec, **self.fits).to(self.device).eval()
        return model, None if self.teacher is None else models.load(self.teacher, **self.fits).to(self.device).eval()


def compares(name: str) -> bool:
    """Whether the measure compares with a teacher."""
    return "teacher" in accepted(MEASURES[name])


def bound(name: str, options: Mapping[str, Any], teacher: nn.Module | None) -> Measure:
    """The measure with its options and, if it compares, the teacher."""
    given: dict[str, Any] = {**options, "teacher": teacher} if compares(name) else {**options}
    return partial(MEASURES[name], **given)


def measure_one(job: Job, own: Path, x: NDArray[np.uint8], y: NDArray[np.int64], *, progress: Progress) -> None:
    """A model's attacks, then each measure that the folder `own` does not hold, saved when it is done."""
    test = data.Split(torch.from_numpy(x), torch.from_numpy(y))
    model, teacher = job.load()
    images, how = test.images(), job.testing
    evaluate(model, images, test.y, job.threat, attacks=how.attacks, batch_size=how.attack_batch, out=own, progress=progress)
    known = _known(own)
    for name, digest in _digests(job, model, teacher, images, test.y).items():
        if known.get(name, ("", None))[0] != digest:
            measure = bound(name, job.measures[name], teacher)
            known[name] = digest, _in_batches(measure, name, model, images, test.y, job.threat, how.attack_batch, progress)
            _save(own, known)


def found(job: Job, own: Path, test: data.Split) -> tuple[models.Classifier, Evaluation, dict[str, PerSample]]:
    """What `measure_one` has left: the evaluation, and the measures by name."""
    (model, teacher), x, how = job.load(), test.images(), job.testing
    outcomes = evaluate(model, x, test.y, job.threat, attacks=how.attacks, batch_size=how.attack_batch, out=own)
    known, digests = _known(own), _digests(job, model, teacher, x, test.y)
    return model, outcomes, {k: values for k, (digest, values) in known.items() if digests.get(k) == digest}


def _in_batches(
    measure: Measure, name: str, model: nn.Module, x: Images, y: Labels, threat: Threat, batch_size: int, tell: Progress
) -> PerSample:
    """The random numbers of a batch come from the measure's name and the batch's first row."""
    parts, device = [], next(model.parameters(), x).device
    with guarded(model, device):
        for start in range(0, len(x), batch_size):
            torch.manual_seed(stream(0, name, start))
            u, v = x[start : start + batch_size].to(device), y[start : start + batch_size].to(device)
            parts.append(measure(model, u, v, threat).float().cpu())
            tell(name, min(start + batch_size, len(x)), len(x))
    return torch.cat(parts)


def _digests(job: Job, model: nn.Module, teacher: nn.Module | None, x: Images, y: Labels) -> dict[str, str]:
    """By measure a digest of everything its numbers depend on; a measure that would compare a model with itself has none."""
    own = records.facts(model, x, y, job.threat, 0, job.testing.attack_batch)["fingerprint"]
    other = None if teacher is None else records.facts(teacher, x, y, job.threat, 0, job.testing.attack_batch)["fingerprint"]
    return {
        name: sha256(f"{name} {sorted(options.items())} {own} {other if compares(name) else ''}".encode()).hexdigest()
        for name, options in job.measures.items()
        if not (compares(name) and own == other)
    }


def _known(own: Path) -> Known:
    """Every measure that the folder holds; none where the file is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(own / NAME, framework="pt") as file:
            about = file.metadata() or {}
            return {name: (about.get(name, ""), file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError):
        return {}


def _save(own: Path, known: Known) -> None:
    from safetensors.torch import save

    atomic_write(own / NAME, save({k: v for k, (_, v) in known.items()}, metadata={k: d for k, (d, _) in known.items()}))
