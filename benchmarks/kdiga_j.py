"""How to align projected logits: the choices behind kdiga_j's defaults, one changed at a time.

    python benchmarks/kdiga_j.py digits  --teacher runs/digits/teacher  --out docs/results/kdiga_j-digits.json
    python benchmarks/kdiga_j.py fashion-mnist --teacher runs/fashion/teacher --images 12000 --epochs 4 --batch-size 128 --seeds 0 --out docs/results/kdiga_j-fashion.json

All accuracies are of validation images, carved from the training data and not trained on by the student; the test set is not touched. Robust means
PGD-20 here. A run that was interrupted goes on where it stopped: what OUT holds is not measured again.
"""

import argparse
import json
import os
import tempfile
from math import inf
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor, nn

from kdiga import data, folder, models
from kdiga.evaluate import evaluate
from kdiga.feed import Feed
from kdiga.inner import eval_mode, maximise, random_point
from kdiga.losses import cross_entropy, input_gradient, kl, norm
from kdiga.recipe import threat_for
from kdiga.train import Settings, fit
from kdiga.types import Batch, Objective, Terms, Threat

VARIANTS: dict[str, dict[str, Any]] = {
    "default: e^2 / 2, random projection, random point": {},
    "weight / 4": {"weight": 0.25},
    "weight * 4": {"weight": 4.0},
    "weight * 16": {"weight": 16.0},
    "norm: e (dual, not squared)": {"form": "dual"},
    "norm: 3 e": {"form": "dual", "weight": 3.0},
    "norm: l2": {"form": "l2"},
    "norm: relative to the teacher's (l1), weight 3": {"form": "relative", "weight": 3.0},
    "norm: relative to the teacher's (l1), weight 10": {"form": "relative", "weight": 10.0},
    "weight balanced on the weights' gradients": {"form": "dual", "balance": True},
    "projection: the label's cross-entropy (KDIGA)": {"projection": "cross-entropy", "form": "dual"},
    "projection: teacher's top class against its second or third": {"projection": "top"},
    "projection: label against its strongest rival": {"projection": "label"},
    "three projections": {"projections": 3},
    "point: clean": {"point": "clean"},
    "point: one attack step away": {"point": "step"},
    "schedule: weight rising": {"schedule": "rising"},
    "schedule: weight falling": {"schedule": "falling"},
    "no alignment": {"weight": 0.0},
    "no alignment, one attack step away": {"weight": 0.0, "point": "step"},
    "ReLU student": {"act": "relu"},
    "no labels: KL alone": {"ce_weight": 0.0, "kd_weight": 1.0},
    "teacher's logits times 3": {"teacher_scale": 3.0},
    "teacher's logits times 3, no alignment": {"teacher_scale": 3.0, "weight": 0.0},
    "teacher's logits times 0.3": {"teacher_scale": 0.3},
    "teacher's logits times 0.3, relative, weight 10": {"teacher_scale": 0.3, "form": "relative", "weight": 10.0},
    "three times the epochs": {"epochs": 3},
}  # fmt: skip


def directions(kind: str, target: Tensor, y: Tensor) -> Tensor:
    """One unit vector of logit space for each sample."""
    rows = torch.arange(len(y))
    if kind == "random":
        v = torch.randn_like(target)
        v = v - v.mean(1, keepdim=True)
    else:
        order, v = target.argsort(1, descending=True), torch.zeros_like(target)
        first = order[:, 0] if kind == "top" else y
        other = (
            order[rows, torch.randint(1, 3, (len(y),))]
            if kind == "top"
            else torch.where(order[:, 0] == y, order[:, 1], order[:, 0])
        )
        v[rows, first], v[rows, other] = 1.0, -1.0
    return torch.nn.functional.normalize(v, dim=1)


def objective(
    threat: Threat,
    *,
    weight: float = 1.0,
    form: str = "squared",
    projection: str = "random",
    projections: int = 1,
    point: str = "random",
    schedule: str = "constant",
    balance: bool = False,
    ce_weight: float = 0.5,
    kd_weight: float = 0.5,
    teacher_scale: float = 1.0,
) -> Objective:
    """kdiga_j with everything about its alignment open to change."""
    dual, ratio = (1.0 if threat.norm == inf else 2.0), [0.0]

    def error(g: Tensor, g_teacher: Tensor) -> Tensor:
        if form == "l2":
            return norm(g - g_teacher, 2.0)
        if form == "relative":
            return norm(g - g_teacher, dual) / norm(g_teacher, dual).mean()
        e = threat.eps * norm(g - g_teacher, dual)
        return e if form == "dual" else e**2 / 2

    def terms(student: nn.Module, teacher: nn.Module | None, batch: Batch, progress: float) -> Terms:
        assert teacher is not None  # noqa: S101 - for the type checker
        u = batch.x if point == "clean" else random_point(batch.x, threat)
        if point == "step":
            with torch.no_grad():
                clean = teacher(batch.x)
            with eval_mode(student):
                u = maximise(lambda w: kl(student(w), clean), batch.x, threat, steps=1, start=u)
        u = u.detach().clone().requires_grad_()
        target, z = teacher_scale * teacher(u), student(u)
        found = {"ce": ce_weight * cross_entropy(z, batch.y), "kd": kd_weight * kl(z, target.detach())}
        if not weight:
            return found
        aligned = torch.zeros_like(found["ce"])
        for _ in range(projections):
            if projection == "cross-entropy":
                of_student, of_teacher = cross_entropy(z, batch.y), cross_entropy(target, batch.y)
            else:
                v = directions(projection, target.detach(), batch.y)
                of_student, of_teacher = (v * z).sum(1), (v * target).sum(1)
            (g_teacher,) = torch.autograd.grad(of_teacher.sum(), u, retain_graph=True)
            aligned = aligned + error(input_gradient(of_student, u, create_graph=True), g_teacher) / projections
        scale = weight * {"constant": 1.0, "rising": min(1.0, 2 * progress), "falling": 1 - progress}[schedule]
        if balance:
            now = gradient_norm(student, found["ce"] + found["kd"]) / max(gradient_norm(student, aligned), 1e-12)
            ratio[0] = now if not ratio[0] else 0.95 * ratio[0] + 0.05 * now
            scale *= ratio[0]
        return {**found, "jac": scale * aligned}

    return terms


def gradient_norm(student: nn.Module, values: Tensor) -> float:
    parameters = list(student.parameters())
    grads = torch.autograd.grad(values.mean(), parameters, retain_graph=True, materialize_grads=True)
    return float(torch.stack([g.pow(2).sum() for g in grads]).sum().sqrt())


def measure(a: argparse.Namespace, variant: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train one student; its accuracy on the validation images, and its terms as first and last logged."""
    dataset, options = data.load(a.data, a.root), dict(variant)
    threat = threat_for(a.data)
    training, validation = data.carve(dataset.train, a.validation, 0)
    fits = {"shape": dataset.shape, "classes": len(dataset.classes), "mean": dataset.mean, "std": dataset.std}
    teacher = models.load(a.teacher, **fits).requires_grad_(False)  # type: ignore[arg-type]
    settings = Settings(epochs=a.epochs * options.pop("epochs", 1), batch_size=a.batch_size, validation_attacked=0)
    spec = f"{a.student}&act={options.pop('act', a.act)}"
    torch.manual_seed(seed)
    student = models.load(spec, **fits)  # type: ignore[arg-type]
    chosen = data.sample(training, a.images)
    feed = Feed(chosen, batch_size=settings.batch_size, seed=seed, crop=dataset.crop, flip=dataset.flip)
    with tempfile.TemporaryDirectory() as out:
        kept, seconds = fit(
            student, teacher, objective(threat, **options), feed, validation, threat, settings, seed=seed, out=Path(out)
        )
        log = [json.loads(line).get("terms") for line in (Path(out) / "log.jsonl").read_text().splitlines()]
    log = [terms for terms in log if terms]
    found = evaluate(kept, validation.images(), validation.y, threat, attacks=("pgd20",))
    accuracy = {"clean": found.accuracy("clean"), "pgd20": found.accuracy("pgd20")}
    return accuracy | {"seconds": seconds, "first": log[0], "last": log[-1]}


def main() -> None:
    """Measure what is missing in OUT, writing it after each run, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--student", default="cnn?width=12")
    parser.add_argument("--act", default="silu")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--images", type=int, default=10**9, help="training images, all by default")
    parser.add_argument("--validation", type=int, default=400)
    parser.add_argument("--only", default="", help="variants that contain this text")
    a = parser.parse_args()
    torch.set_num_threads(1)
    settings = {k: str(v) for k, v in vars(a).items() if k not in ("out", "seeds", "only")}
    known: dict[str, Any] = (
        json.loads(a.out.read_text()) if a.out.exists() else {"settings": settings, "environment": folder.environment(), "runs": []}
    )
    if known["settings"] != settings:
        raise SystemExit(f"{a.out} was measured with other settings: {known['settings']}")
    done = {(r["variant"], r["seed"]) for r in known["runs"]}
    for name in [n for n in VARIANTS if a.only in n]:
        for seed in map(int, a.seeds.split(",")):
            if (name, seed) not in done:
                known["runs"].append({"variant": name, "seed": seed} | measure(a, VARIANTS[name], seed))
                a.out.write_text(json.dumps(known, indent=1) + "\n")
                print(f"{name}, seed {seed}: {known['runs'][-1]}", flush=True)
    print(table(known["runs"]))


def table(runs: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds, in GitHub's Markdown, in the order of VARIANTS."""
    lines = ["| variant | clean | PGD-20 |", "| :-- | --: | --: |"]
    for name in [n for n in VARIANTS if any(r["variant"] == n for r in runs)]:
        cells = []
        for key in ("clean", "pgd20"):
            values = [100 * r[key] for r in runs if r["variant"] == name]
            cells.append(f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "") + " %")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    main()
