"""Seed known bugs, one at a time, into a copy of the package and see that the tests notice: `make mutants`.

Most are bugs of published code: a detached second derivative, gradients of the mean, KL averaged over classes, a learning rate that
drops once, eps and step swapped, BatchNorm moved by the attack ... A mutant that survives names a missing test. Not part of `make test`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FORMULAS, CONTRACT = "tests/objectives/test_objectives_formulas.py", "tests/objectives/test_objectives_contract.py"
LOSSES, INNER, OPTIM, TRAIN = "tests/test_losses.py", "tests/test_inner.py", "tests/test_optim.py", "tests/test_train.py"
EVALUATE, ATTACKS, STATS, DATA = "tests/test_evaluate.py", "tests/attacks", "tests/test_stats.py", "tests/data"


@dataclass(frozen=True)
class Mutant:
    """In `file`, `old` (which must occur) becomes `new`; `tests` should fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = [
    Mutant("the alignment is detached: it teaches nothing (first commit of the authors' code)", "objectives/kdiga.py",
           "g_student = input_gradient(own, u, create_graph=True)", "g_student = input_gradient(own, u, create_graph=False)", CONTRACT),
    Mutant("gradients of the batch mean, 1/B", "losses.py", "loss.sum(), x", "loss.mean(), x", LOSSES),
    Mutant("one norm over the batch", "objectives/kdiga.py", "norm(g_student - g_teacher, 2.0)",
           "(g_student - g_teacher).norm().expand(len(u))", CONTRACT),
    Mutant("squared norm", "objectives/kdiga.py", "norm(g_student - g_teacher, 2.0)", "norm(g_student - g_teacher, 2.0) ** 2", FORMULAS),
    Mutant("l1 norm", "objectives/kdiga.py", "norm(g_student - g_teacher, 2.0)", "norm(g_student - g_teacher, 1.0)", FORMULAS),
    Mutant("norm with a NaN gradient at zero", "losses.py", "torch.linalg.vector_norm(v.flatten(1), ord=p, dim=1)",
           "v.flatten(1).abs().pow(p).sum(1).pow(1 / p)", LOSSES),
    Mutant("KL averaged over classes (PyTorch's default)", "losses.py", "log_target=True).sum(1)", "log_target=True).mean(1)", LOSSES),
    Mutant("no T^2", "losses.py", "return temperature**2 * F.kl_div", "return F.kl_div", LOSSES),
    Mutant("KL the other way round", "losses.py", "F.kl_div(log_q, log_p", "F.kl_div(log_p, log_q", LOSSES),
    Mutant("double softmax", "losses.py", "F.cross_entropy(_wide(z), y", "F.cross_entropy(_wide(z).softmax(1), y", LOSSES),
    Mutant("eps and step may be swapped", "inner.py", "if step_size > 2 * threat.eps:", "if False:", INNER),
    Mutant("step 2/225", "inner.py", "min(2.5 / steps, 1.0)", "min(2.5 / steps * 255 / 225, 1.0)", INNER),
    Mutant("steps that cannot cross the ball", "inner.py", "min(2.5 / steps, 1.0)", "min(1.3 / steps, 1.0)", INNER),
    Mutant("descent", "inner.py", "u.detach() + step_size * direction", "u.detach() - step_size * direction", INNER),
    Mutant("no clamp to [0, 1]", "inner.py", "x + threat.eps).clamp(0, 1)", "x + threat.eps)", INNER),
    Mutant("no l2 projection", "inner.py", "scale = (threat.eps / norm(d, 2.0).clamp_min(1e-12)).clamp_max(1)", "scale = norm(d, 2.0) * 0 + 1", INNER),
    Mutant("l2 points not uniform", "inner.py", "** (1 / x[0].numel())", "", INNER),
    Mutant("evaluation mode is not undone", "inner.py", "m.training = mode", "pass", INNER),
    Mutant("the attack runs in training mode", "inner.py", "    model.eval()\n    try:", "    try:", CONTRACT),
    Mutant("adversarial training on clean images", "objectives/pgd_at.py", "cross_entropy(student(x), batch.y)}",
           "cross_entropy(student(batch.x), batch.y)}", FORMULAS),
    Mutant("TRADES detaches the clean branch", "objectives/trades.py", "kl(student(attacked), z)", "kl(student(attacked), z.detach())", FORMULAS),
    Mutant("TRADES without beta", "objectives/trades.py", "beta * kl(", "kl(", FORMULAS),
    Mutant("the clean point where a random one was asked for", "objectives/kdiga.py", 'if point == "random":', "if False:", CONTRACT),
    Mutant("the author's norm without 1/B", "objectives/kdiga_author.py", "gamma / size * torch", "gamma * torch", FORMULAS),
    Mutant("the author's KL summed over classes", "objectives/kdiga_author.py", "alpha / classes * kl", "alpha * kl", FORMULAS),
    Mutant("KD ignores its teacher", "objectives/kd.py", "kl(z, target, temperature)", "kl(z, z.detach(), temperature)", CONTRACT),
    Mutant("the second milestone does not count", "optim.py", "sum(progress >= m for m in milestones)",
           "min(1, sum(progress >= m for m in milestones))", OPTIM),
    Mutant("weight decay on norms", "optim.py", '"params": free, "weight_decay": 0.0', '"params": free, "weight_decay": weight_decay', OPTIM),
    Mutant("resume forgets the random state", "checkpoint.py", 'torch.set_rng_state(tensors["random/cpu"])', "pass", TRAIN),
    Mutant("resume forgets the momentum", "checkpoint.py", "optimizer.load_state_dict(state)", "pass", TRAIN),
    Mutant("resume repeats log lines", "train.py", "lines[: state.log_lines]", "lines", TRAIN),
    Mutant("every epoch in the same order", "train.py", "generator.manual_seed(_mix(seed, epoch))", "generator.manual_seed(seed)", TRAIN),
    Mutant("NaN is not noticed", "train.py", 'if not abs(loss) < float("inf"):', "if False:", TRAIN),
    Mutant("a collapsed student overwrites the checkpoint", "train.py", "if state.at_chance == 0 or not saved.exists():", "if True:", TRAIN),
    Mutant("logged terms do not add up", "train.py", "loss = sum(means.values())", "loss = max(means.values())", TRAIN),
    Mutant("a sample that is wrong on clean input counts", "evaluate/__init__.py", "rows = (left if name in AUTOATTACK else clean).nonzero()[:, 0]",
           "rows = (clean | True).nonzero()[:, 0]", EVALUATE),
    Mutant("robust under any attack instead of all", "evaluate/__init__.py", "left = left & columns[name]", "left = left | columns[name]", EVALUATE),
    Mutant("the attack is believed: no projection", "evaluate/stage.py", "model(project(torch.where(usable, found, x).to(x), x, threat))",
           "model(torch.where(usable, found, x).to(x))", EVALUATE),
    Mutant("NaN logits count as right", "evaluate/stage.py", "(z.argmax(1) == y) & ~z.isnan().any(1)", "(z.argmax(1) == y) | z.isnan().any(1)", EVALUATE),
    Mutant("attack seeds depend on the process", "evaluate/stage.py", 'int.from_bytes(sha256(f"{seed}/{name}/{row}".encode()).digest()[:7])',
           'int.from_bytes(sha256(f"{seed}/{row}".encode()).digest()[:7])', EVALUATE),
    Mutant("nine targets for any number of classes", "attacks/autoattack.py", "targets = min(TARGETS, classes - 1)", "targets = TARGETS", ATTACKS),
    Mutant("FGSM takes half a step", "attacks/pgd.py", "steps=1, step_size=threat.eps, start=x", "steps=1, step_size=threat.eps / 2, start=x", ATTACKS),
    Mutant("a normal interval instead of Wilson's", "stats.py", 'method="wilson"', 'method="exact"', STATS),
    Mutant("a validation set that is also trained on", "data/splits.py", "(~chosen, chosen)", "(chosen | True, chosen)", DATA),
]  # fmt: skip


def killed(mutant: Mutant) -> bool:
    """Whether the mutant's tests fail on a copy of the repository that has the bug."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        for name in ("src", "tests", "recipes", "docs", "benchmarks", "pyproject.toml", "README.md", "CITATION.cff", "Makefile"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy / name)
        file = copy / "src" / "kdiga" / mutant.file
        text = file.read_text()
        if mutant.old not in text:
            raise SystemExit(f"mutant '{mutant.name}': {mutant.file} no longer has the line that it changes")
        file.write_text(text.replace(mutant.old, mutant.new, 1))
        command = [sys.executable, "-m", "pytest", "-x", "--no-header", "--tb=no", mutant.tests]
        environment = os.environ | {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=copy, env=environment, capture_output=True, check=False).returncode == 1


def main() -> int:
    """Print each mutant's fate; the exit code is the number of survivors."""
    chosen = [m for m in MUTANTS if not sys.argv[1:] or any(word in m.name for word in sys.argv[1:])]
    survivors = 0
    for i, mutant in enumerate(chosen, 1):
        dead = killed(mutant)
        survivors += not dead
        print(f"{i:3} of {len(chosen)}  {'killed  ' if dead else 'SURVIVED'}  {mutant.name}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants killed")
    return survivors


if __name__ == "__main__":
    sys.exit(main())
