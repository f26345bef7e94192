"""The training loop, visible top to bottom. Objectives say what is minimised; nothing else differs between methods."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

import torch
from torch import Tensor, nn

from kdiga import checkpoint, optim
from kdiga.data import Split, augment, sample
from kdiga.errors import BadInput, Stopped
from kdiga.evaluate import evaluate
from kdiga.types import Batch, Objective, Progress, Threat

ENOUGH_STEPS = 200  # before these, a student at chance has not collapsed: it has not learnt yet


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How training runs, whatever the objective."""

    epochs: int = 30
    batch_size: int = 128
    lr: float = 0.1  # the schedule's peak
    schedule: Literal["onecycle", "multistep", "constant"] = "onecycle"
    warmup: float = 0.2  # share of training over which onecycle rises
    milestones: tuple[float, ...] = (0.5, 0.75)  # shares of training at which multistep divides by ten
    momentum: float = 0.9
    weight_decay: float = 5e-4  # not on biases and norm parameters
    clip: float = 5.0  # largest l2 norm of the weights' gradient; 0 switches clipping off
    ema: float = 0.0  # decay of the weights' moving average, which is then what is validated and saved; 0 switches it off
    bf16: bool = False  # forward and losses under bfloat16 autocast
    channels_last: bool = False
    augment: bool = True  # the data set's own pad-crop and flip
    validation: int = 500  # images carved from the training data
    validation_attacked: int = 100  # of these, how many are attacked by PGD-20 after each epoch
    log_every: int = 20  # steps
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, ok, rule in (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 2, "at least 2"),
            ("lr", self.lr > 0, "above 0"),
            ("warmup", 0 <= self.warmup < 1, "in [0, 1)"),
            ("ema", 0 <= self.ema < 1, "in [0, 1)"),
            ("log_every", self.log_every >= 1, "at least 1"),
            ("validation", self.validation >= 1, "at least 1"),
            ("validation_attacked", self.validation_attacked >= 0, "at least 0"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("clip", self.clip >= 0, "at least 0"),
        ):
            if not ok:
                raise BadInput(f"{name} is {getattr(self, name)}: it must be {rule}")


@dataclass
class State:
    """What the loop has reached; with the modules, the optimiser and the random state this is all that a checkpoint holds."""

    step: int = 0
    seconds: float = 0.0  # in training steps: validation and saving are not counted
    log_lines: int = 0
    first: dict[str, float] = field(default_factory=dict)  # the loss terms as first logged
    at_chance: int = 0  # validations in a row at which the model did not beat a constant
    count: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)  # of each term since it was last logged, on the device


def fit(
    student: nn.Module,
    teacher: nn.Module | None,
    objective: Objective,
    data: Split,
    validation: Split,
    threat: Threat,
    settings: Settings,
    *,
    seed: int,
    out: Path,
    crop: int = 0,
    flip: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> tuple[nn.Module, float]:
    """Train `student` in place; returns the model to keep (the moving average, if there is one) and the seconds of training.

    Writes `log.jsonl` and, after each epoch, `checkpoint/last.safetensors` under `out`; Ctrl-C and SIGTERM write it too, after the
    step in hand, and raise KeyboardInterrupt. On a CPU a resumed run ends bit-equal to one that was never interrupted.
    Raises Stopped for a loss that is not finite and for a student that has collapsed to a constant.
    """
    device = pick_device(settings.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # the random state that is saved is this one's
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    student.to(device=device, memory_format=layout).train()  # type: ignore[call-overload]
    if teacher is not None:
        teacher.to(device=device, memory_format=layout).eval().requires_grad_(False)  # type: ignore[call-overload]
    optimizer = optim.sgd(student, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    modules: dict[str, nn.Module] = {"student": student}
    average = optim.averaged(student, settings.ema) if settings.ema else None
    if average is not None:
        modules["average"] = average
    kept = student if average is None else average.module
    size = min(settings.batch_size, len(data))
    per_epoch = len(data) // size  # an incomplete last batch waits for the next epoch's order
    total = settings.epochs * per_epoch
    data, validation, state, saved = data.to(device), validation.to(device), State(), out / "checkpoint" / "last.safetensors"
    generator = torch.Generator()
    torch.manual_seed(seed)
    if resume:
        state = _restore(saved, modules, optimizer, out / "log.jsonl", device)
    order = torch.empty(0)
    with _interruptible() as interrupted:
        while state.step < total:
            epoch, place = divmod(state.step, per_epoch)
            if place == 0 or not len(order):
                order = torch.randperm(len(data), generator=generator.manual_seed(_mix(seed, epoch)))
            began, share = time.perf_counter(), state.step / total
            row = order[place * size : (place + 1) * size]
            x = data.images(row)
            if settings.augment:
                x = augment(x, crop=crop, flip=flip, generator=generator.manual_seed(_mix(seed + 1, state.step)))
            batch = Batch(x.contiguous(memory_format=layout), data.y[row.to(device)], row.to(device))
            rate = optim.learning_rate(settings.schedule, settings.lr, share, settings.milestones, settings.warmup)
            _step(student, teacher, objective, batch, share, optimizer, rate, settings, state)
            if average is not None:
                average.update_parameters(student)
            state.step += 1
            logs = state.step % settings.log_every == 0 or place + 1 == per_epoch
            if logs and device.type == "cuda":
                torch.cuda.synchronize(device)  # steps are only queued until then: without it their time would not be counted
            state.seconds += time.perf_counter() - began
            if progress is not None:
                progress(f"training, epoch {epoch + 1} of {settings.epochs}", state.step, total)
            if logs:
                _log_terms(state, out / "log.jsonl", epoch, share, rate)
            if place + 1 == per_epoch:
                _validate(kept, validation, threat, settings, state, out / "log.jsonl", epoch, last=state.step == total)
                if state.at_chance == 0 or not saved.exists():
                    _save(saved, modules, optimizer, state)
            if interrupted():
                if all(value.isfinite() for value in state.sums.values()):
                    _save(saved, modules, optimizer, state)
                raise KeyboardInterrupt
    return kept.eval(), state.seconds


def _step(
    student: nn.Module,
    teacher: nn.Module | None,
    objective: Objective,
    batch: Batch,
    share: float,
    optimizer: torch.optim.Optimizer,
    rate: float,
    settings: Settings,
    state: State,
) -> None:
    """One update. No value is read back from the device here: the sums are looked at when they are logged."""
    with torch.autocast(batch.x.device.type, dtype=torch.bfloat16, enabled=settings.bf16):
        terms = {name: values.mean() for name, values in objective(student, teacher, batch, share).items()}
        loss = torch.stack(list(terms.values())).sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if settings.clip:
        nn.utils.clip_grad_norm_(student.parameters(), settings.clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    for name, value in terms.items():
        state.sums[name] = state.sums.get(name, 0) + value.detach()
    state.count += 1


def _log_terms(state: State, log: Path, epoch: int, share: float, rate: float) -> None:
    """Append the mean of every term since the last line; their sum is the loss. Stops the run if it is not finite."""
    means = dict(zip(state.sums, (torch.stack(list(state.sums.values())) / state.count).tolist(), strict=True))
    loss = sum(means.values())
    if not abs(loss) < float("inf"):
        culprits = ", ".join(name for name, v in means.items() if not abs(v) < float("inf"))
        raise Stopped(
            f"the loss is not finite at step {state.step} (term {culprits}): try a smaller lr, a smaller clip or a smaller weight of that "
            f"term; the weights of the last good epoch are kept in {log.parent}"
        )
    state.first = state.first or means
    state.sums, state.count = {}, 0
    line = {"epoch": epoch, "step": state.step, "progress": share, "seconds": round(state.seconds, 3), "lr": rate, "loss": loss}
    _append(log, state, line | {"terms": means})


def _validate(
    model: nn.Module, validation: Split, threat: Threat, settings: Settings, state: State, log: Path, epoch: int, *, last: bool
) -> None:
    """Clean accuracy of the validation images, PGD-20 accuracy of a sample of them; stops a run whose student is a constant."""
    clean = evaluate(model, validation.images(), validation.y, threat, attacks=()).accuracy("clean")
    n = settings.validation_attacked
    found = {"clean": clean}
    if n:
        few = sample(validation, n)
        found["pgd20"] = evaluate(model, few.images(), few.y, threat, attacks=("pgd20",)).accuracy("pgd20")
    _append(log, state, {"epoch": epoch, "step": state.step, "validation": found})
    size, chance = len(validation), validation.y.bincount().max().item() / len(validation)
    at_chance = clean <= chance + 2 * (chance * (1 - chance) / size) ** 0.5
    state.at_chance = state.at_chance + 1 if at_chance else 0
    if state.step >= ENOUGH_STEPS and (state.at_chance >= 3 or (state.at_chance and last)) and "iga" in state.first:
        now = _last_terms(log)
        fell = now["iga"] < state.first["iga"]
        learnt = sum(now.values()) - now["iga"] < 0.9 * (sum(state.first.values()) - state.first["iga"])
        if fell and not learnt:
            raise Stopped(
                f"the student has collapsed to a constant: {clean:.0%} of the validation images right, no better than chance, while the "
                f"alignment term fell from {state.first['iga']:.3g} to {now['iga']:.3g} (a zero gradient everywhere aligns with a small one). "
                f"Try a smaller iga_weight, point=random, or a smooth activation (?act=silu); the weights of the last good epoch are kept in {log.parent}"
            )


def _last_terms(log: Path) -> dict[str, float]:
    terms = [json.loads(line).get("terms") for line in log.read_text().splitlines()]
    found: dict[str, float] = [t for t in terms if t][-1]
    return found


def _append(log: Path, state: State, line: dict[str, object]) -> None:
    with log.open("a") as f:
        f.write(json.dumps(line) + "\n")
    state.log_lines += 1


def _save(path: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, state: State) -> None:
    meta = {k: v for k, v in vars(state).items() if k != "sums"}
    checkpoint.save(path, modules, optimizer, state.sums, meta)


def _restore(path: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, log: Path, device: torch.device) -> State:
    """The state at the checkpoint; lines that were logged after it are cut off, for they will be written again."""
    sums, meta = checkpoint.load(path, modules, optimizer)
    state = State(**meta, sums={k: v.to(device) for k, v in sums.items()})
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    log.write_text("".join(lines[: state.log_lines]))
    return state


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C and SIGTERM are noted, so that the loop can finish its step and save; a second Ctrl-C interrupts at once."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals reach the main thread only
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError):
        raise BadInput(f"device '{name}' is not available here: use auto or cpu") from None


def _mix(seed: int, place: int) -> int:
    """One seed for each (run, place): data order and augmentation need no state of their own."""
    return (seed * 1_000_003 + place * 7_919 + 17) % 2**63
