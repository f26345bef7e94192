"""Clean and robust accuracy with one outcome per sample. An attack is not believed: what it returns is checked here."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter

from torch import nn

from kdiga.attacks import AUTOATTACK, expand
from kdiga.attacks.guard import guarded
from kdiga.errors import BadInput
from kdiga.evaluate import records
from kdiga.evaluate.checks import check_input
from kdiga.evaluate.stage import attack_rows, clean_outcomes, stage
from kdiga.folder import atomic_write
from kdiga.stats import wilson
from kdiga.types import Images, Labels, Outcomes, Progress, Threat

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """`robust[name][i]` says whether sample i is classified right under `name`: "clean" or an attack that was asked for.

    - "clean": right on x itself. A sample wrong there is wrong everywhere.
    - fgsm, pgd20, pgd100: right on x and on that attack's images. Each runs on all samples that are right on x, so that its column
      is that attack's and no other's.
    - apgd-ce, apgd-t, fab-t, square form a cascade: each runs on what everything before it in this call has left, re-packed into full
      batches, and its column is what it leaves. Asked for alone it is that attack's own; after others it is the worst of all so far.
    - "autoattack": right on x and under every attack of the call (the worst case for each sample). Each break is an image found by an
      attack and verified, so up to the random draws this is at most what AutoAttack "standard" itself reports.

    `cascade` holds the columns of the AutoAttack members that ran, also where only "autoattack" was asked for; `seconds` has "clean",
    every attack that ran, and "autoattack" (its four together).
    """

    threat: Threat
    n: int
    robust: dict[str, Outcomes]
    seconds: dict[str, float]
    cascade: dict[str, Outcomes] = field(default_factory=dict)

    def accuracy(self, name: str) -> float:
        """The share of all n samples, in [0, 1]."""
        return int(self._outcomes(name).sum()) / self.n

    def interval(self, name: str) -> tuple[float, float]:
        """The 95 % Wilson interval of `accuracy`."""
        return wilson(int(self._outcomes(name).sum()), self.n)

    def _outcomes(self, name: str) -> Outcomes:
        if name not in self.robust:
            raise BadInput(f"'{name}' was not evaluated, only {', '.join(self.robust)}")
        return self.robust[name]


def evaluate(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: Threat,
    *,
    attacks: Sequence[str] = ("fgsm", "pgd20", "autoattack"),
    batch_size: int = 256,
    seed: int = 0,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Attack the samples that `model` classifies right, in the order of `attacks`, in batches on the model's device.

    What a column of the result means is said at `Evaluation`. An image counts against the model only after it is brought into the ball
    and into [0, 1] and is then misclassified in evaluation mode; NaN images are failed attacks, NaN logits are misclassifications.
    The random numbers of a batch come from (seed, attack, first row of the batch): another attack in the list changes nothing for
    fgsm and pgd; a cascade member sees other samples then. Model, generators and grad mode are left as they were.

    With `out`, `per_sample.safetensors` (one byte per sample and column) is written after each batch, `evaluation.json` at the end;
    called again with the same model, images, settings and versions, it goes on where it stopped. `progress` is told (attack, samples
    done, of how many). Raises BadInput for unknown attacks, images that are not float32 in [0, 1] or that the model cannot read, and
    labels it does not have.
    """
    names = expand(attacks)
    check_input(x, y, batch_size)
    tell = progress or (lambda what, done, total: None)
    device = next(model.parameters(), x).device
    with guarded(model, device):
        begin = perf_counter()
        clean = clean_outcomes(model, x, y, batch_size, device, tell)
        columns, seconds = {"clean": clean}, {"clean": perf_counter() - begin}
        facts = records.facts(model, x, y, threat, seed, batch_size) if out else {}
        known = records.read(out, facts, len(x)) if out else {}
        left = clean
        for name in names:
            rows = (left if name in AUTOATTACK else clean).nonzero()[:, 0]
            attack = partial(attack_rows, model, name, x, y, threat, seed, device)
            for record in stage(attack, rows, len(x), batch_size, known.get(name)):
                known[name] = record
                if out:
                    records.write(out, facts, columns, known)
                tell(name, record.done, len(rows))
            columns[name], seconds[name] = known[name].robust, known[name].seconds
            left = left & columns[name]
    if "autoattack" in attacks:
        columns["autoattack"], seconds["autoattack"] = left, sum(seconds[a] for a in AUTOATTACK)
    robust = {name: columns[name] for name in dict.fromkeys(("clean", *attacks))}
    found = Evaluation(
        threat=threat, n=len(x), robust=robust, seconds=seconds, cascade={a: columns[a] for a in names if a in AUTOATTACK}
    )
    if out:
        records.write(out, facts, columns, known)
        atomic_write(out / "evaluation.json", json.dumps(_summary(found, facts), indent=1).encode())
    return found


def _summary(found: Evaluation, facts: dict[str, object]) -> dict[str, object]:
    return {
        "n": found.n,
        "accuracy": {name: found.accuracy(name) for name in found.robust},
        "interval": {name: found.interval(name) for name in found.robust},
        "cascade": {name: int(left.sum()) / found.n for name, left in found.cascade.items()},
        "seconds": found.seconds,
        **facts,
    }
