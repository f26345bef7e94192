"""AutoAttack standard: ours against the package pyautoattack, on the same models, images and number of threads.

    python benchmarks/autoattack.py teacher=runs/fashion/teacher student=runs/fashion/student --data fashion-mnist --eps 0.1 --n 200 \
        --split train --out docs/results/autoattack-fashion.json

Theirs is `AutoAttack(version="standard").run_standard_evaluation`, as a user would call it: batches of 250, parameters as loaded. Ours is
`evaluate` with attacks=("autoattack",). A sample that only one of the two breaks is attacked again by both with three other
seeds: how often each breaks it then says whether the difference is one of random draws. Seconds are of the wall and of the processor; the ratio is of the processor's,
which other programs disturb less.
"""

import argparse
import json
import warnings
from collections.abc import Callable
from math import inf
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from torch import nn

from kdiga import data, folder, models
from kdiga.evaluate import evaluate
from kdiga.types import Images, Labels, Outcomes, Threat

Verdict = Callable[[nn.Module, Images, Labels, Threat, int], Outcomes]  # (model, x, y, threat, seed) -> robust


def ours(model: nn.Module, x: Images, y: Labels, threat: Threat, seed: int) -> Outcomes:
    """Robust under our AutoAttack."""
    return evaluate(model, x, y, threat, attacks=("autoattack",), seed=seed).robust["autoattack"]


def theirs(model: nn.Module, x: Images, y: Labels, threat: Threat, seed: int) -> Outcomes:
    """Robust under the package's."""
    from pyautoattack import AutoAttack

    device = next(model.parameters()).device
    whole = AutoAttack(
        model, norm="Linf" if threat.norm == inf else "L2", eps=threat.eps, version="standard", seed=seed, device=device
    )
    _, labels = whole.run_standard_evaluation(x.to(device), y.to(device), batch_size=250)
    robust: Outcomes = labels.cpu() == y
    return robust


def measured(
    attack: Verdict, repeats: int, model: nn.Module, x: Images, y: Labels, threat: Threat
) -> tuple[Outcomes, dict[str, float]]:
    """The verdict with seed 0, and its cost: the median over the repeats."""
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = perf_counter(), process_time()
        robust = attack(model, x, y, threat, 0)  # on the CPU: what ran on a GPU has ended
        walls.append(perf_counter() - wall)
        cpus.append(process_time() - cpu)
    return robust, {"robust": int(robust.sum()), "wall": median(walls), "cpu": median(cpus)}


def again(rows: Labels, model: nn.Module, x: Images, y: Labels, threat: Threat) -> list[dict[str, int]]:
    """For each of these samples: how often either breaks it with the seeds 1, 2 and 3."""
    if not len(rows):
        return []
    counts = [
        torch.stack([~attack(model, x[rows], y[rows], threat, seed) for seed in (1, 2, 3)]).sum(0) for attack in (ours, theirs)
    ]
    return [{"sample": int(rows[i]), "kdiga": int(counts[0][i]), "pyautoattack": int(counts[1][i])} for i in range(len(rows))]


def compare(model: nn.Module, x: Images, y: Labels, threat: Threat, repeats: int) -> dict[str, Any]:
    """Both on one model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's remarks on models that are too easy
        mine, our = measured(ours, repeats, model, x, y, threat)
        reference, their = measured(theirs, repeats, model, x, y, threat)
        only_theirs = again((mine & ~reference).nonzero()[:, 0], model, x, y, threat)
        only_ours = again((~mine & reference).nonzero()[:, 0], model, x, y, threat)
    return {
        "kdiga": our,
        "pyautoattack": their,
        "ratio_wall": their["wall"] / our["wall"],
        "ratio_cpu": their["cpu"] / our["cpu"],
        "only_pyautoattack_breaks": only_theirs,
        "of_these_never_broken_by_kdiga": sum(not row["kdiga"] for row in only_theirs),
        "only_kdiga_breaks": only_ours,
    }


def main() -> None:
    """Print each model's comparison and write all of them to OUT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=SPEC")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--split", choices=("train", "test"), default="test")
    parser.add_argument("--norm", default="linf")
    parser.add_argument("--eps", default="0.1")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    dataset, threat = data.load(a.data, a.root), Threat.parse(a.norm, a.eps)
    chosen = data.sample(getattr(dataset, a.split), a.n)
    fits = {"shape": dataset.shape, "classes": len(dataset.classes), "mean": dataset.mean, "std": dataset.std}
    settings = {k: str(v) for k, v in vars(a).items() if k != "out"}
    found: dict[str, Any] = {"settings": settings, "environment": folder.environment(), "models": {}}
    for name, spec in (model.split("=", 1) for model in a.models):
        model = models.load(spec, **fits).to(a.device).eval()  # type: ignore[arg-type]
        found["models"][name] = compare(model, chosen.images(), chosen.y, threat, a.repeats)
        print(name, json.dumps(found["models"][name]), flush=True)
        a.out.parent.mkdir(parents=True, exist_ok=True)
        a.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
