"""One attack on the rows it is given, batch after batch, and the check of what it returns."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from time import perf_counter

import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from kdiga.attacks import ATTACKS
from kdiga.attacks.packing import right
from kdiga.evaluate.checks import checked_logits
from kdiga.inner import project
from kdiga.types import Images, Labels, Outcomes, Progress, Threat


@dataclass(frozen=True, eq=False)
class Record:
    """How far one attack has come: of the rows with digest `rows` the first `done` have been attacked; `robust` is False elsewhere."""

    rows: str
    done: int
    seconds: float
    robust: Outcomes


def clean_outcomes(model: nn.Module, x: Images, y: Labels, batch_size: int, device: torch.device, tell: Progress) -> Outcomes:
    """Which samples the model classifies right."""
    found = []
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        u, v = x[part].to(device), y[part].to(device)
        with torch.no_grad():
            found.append(right(checked_logits(model, u, v), v).cpu())
        tell("clean", min(start + batch_size, len(x)), len(x))
    return torch.cat(found)


def stage(attack: Callable[[Labels], Outcomes], rows: Labels, n: int, batch_size: int, known: Record | None) -> Iterator[Record]:
    """The record of `attack` on `rows` of n samples as it is found (`known`, if it is of these rows), then after each batch."""
    digest = sha256(rows.numpy().tobytes()).hexdigest()
    record = known if known and known.rows == digest else Record(digest, 0, 0.0, torch.zeros(n, dtype=torch.bool))
    yield record
    while record.done < len(rows):
        begin = perf_counter()
        batch = rows[record.done : record.done + batch_size]
        robust = record.robust.clone()
        robust[batch] = attack(batch)
        record = Record(digest, record.done + len(batch), record.seconds + perf_counter() - begin, robust)
        yield record


def attack_rows(
    model: nn.Module, name: str, x: Images, y: Labels, threat: Threat, seed: int, device: torch.device, rows: Int64[Tensor, "r"]
) -> Bool[Tensor, "r"]:
    """Whether the model withstands the attack `name`, for each of one batch of rows. Seeds the global generator."""
    u, v = x[rows.to(x.device)].to(device), y[rows.to(y.device)].to(device)
    torch.manual_seed(stream(seed, name, int(rows[0])))
    return withstands(model, ATTACKS[name](model, u, v, threat), u, v, threat).cpu()


def withstands(model: nn.Module, found: Images, x: Images, y: Labels, threat: Threat) -> Outcomes:
    """Whether the model is right on the attack's images once they are in the threat and in [0, 1]; for NaN images, on x."""
    with torch.no_grad():
        usable = found.isfinite().flatten(1).all(1)[:, None, None, None]
        return right(model(project(torch.where(usable, found, x).to(x), x, threat)), y)


def stream(seed: int, name: str, row: int) -> int:
    """The seed of a batch, the same in every process (Python's own hash is not)."""
    return int.from_bytes(sha256(f"{seed}/{name}/{row}".encode()).digest()[:7])
