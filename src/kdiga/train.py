"""The training loop, visible top to bottom. Objectives say what is minimised; nothing else differs between methods."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

import torch
from torch import Tensor, nn

from kdiga import checkpoint, inner, optim
from kdiga.data import Split, sample
from kdiga.errors import BadInput, Stopped
from kdiga.evaluate import evaluate
from kdiga.feed import Feed
from kdiga.types import Batch, Objective, Progress, Threat

FALL = 0.2  # of robust accuracy on training images: catastrophic overfitting, where one-step accuracy stays this far above
FOOLED = 3  # epochs in a row in which PGD leaves less than a quarter of FGSM's accuracy: the same, from the start
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
    awp: float = 0.0  # adversarial weight perturbation: share of each weight's norm; 0 switches it off, 0.01 and 0.005 are usual
    awp_warmup: float = 0.0  # share of training before which the weights are not perturbed
    extra: str | None = None  # an .npz of further training images, generated ones say, labelled
    extra_fraction: float = 0.5  # of each batch that is drawn from them
    early_stopping: int = (
        0  # epochs without a better PGD-20 on the validation images after which training ends; the best epoch's weights are kept
    )
    bf16: bool = False  # forward and losses under bfloat16 autocast
    channels_last: bool = False
    augment: bool = True  # the data set's own pad-crop and flip
    # sigma of Gaussian noise on every training image, unclipped (Cohen et al. 2019, arXiv 1902.02918): what randomised smoothing needs.
    # Teacher and student see the same. An objective that attacks, or draws from the ball, clips its points to [0, 1], noise and all
    noise_sd: float = 0.0
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
            ("noise_sd", self.noise_sd >= 0, "at least 0"),
            ("awp", 0 <= self.awp <= 1, "from 0 to 1"),
            ("awp_warmup", 0 <= self.awp_warmup <= 1, "from 0 to 1"),
            ("extra_fraction", 0 <= self.extra_fraction < 1, "in [0, 1)"),
            ("early_stopping", self.early_stopping >= 0, "at least 0"),
            ("validation_attacked", self.validation_attacked or not self.early_stopping, "at least 1 for early_stopping"),
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
    best: float = -1.0  # PGD-20 accuracy of the validation images, at its best epoch
    since_best: int = 0  # epochs
    best_watched: float = 0.0  # PGD-20 accuracy of the watched training images, at its best
    fooled: int = 0  # epochs in a row in which that was less than a quarter of FGSM's
    count: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)  # of each term since it was last logged, on the device


def fit(
    student: nn.Module,
    teacher: nn.Module | None,
    objective: Objective,
    feed: Feed,
    validation: Split,
    threat: Threat,
    settings: Settings,
    *,
    seed: int,
    out: Path,
    memory: dict[str, Tensor] | None = None,
    watched: Split | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> tuple[nn.Module, float]:
    """Train `student` in place; returns the model to keep (the best epoch's, the moving average, or itself) and the seconds of training.

    `memory` is what the objective remembers from step to step. `watched` are training images that are attacked after each epoch to
    notice catastrophic overfitting. Networks and data are on the device that they are to be trained on.
    Writes `log.jsonl` and, after each epoch, `checkpoint/last.safetensors` under `out`; Ctrl-C and SIGTERM write it too, after the
    step in hand, and raise KeyboardInterrupt. On a CPU a resumed run ends bit-equal to one that was never interrupted.
    Raises Stopped for a loss that is not finite, for a student that has collapsed to a constant, and for catastrophic overfitting.
    """
    device = validation.y.device
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    student.train()
    optimizer = optim.sgd(student, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    modules: dict[str, nn.Module] = {"student": student}
    average = optim.averaged(student, settings.ema) if settings.ema else None
    if average is not None:
        modules["average"] = average
    kept = student if average is None else average.module
    if settings.early_stopping:
        modules["best"] = deepcopy(kept)
    memory = {} if memory is None else memory
    total = settings.epochs * feed.steps
    state, log, saved = State(), out / "log.jsonl", out / "checkpoint" / "last.safetensors"
    torch.manual_seed(seed)
    if resume:
        state = _restore(saved, modules, optimizer, memory, log, device)
    with _interruptible() as interrupted:
        while state.step < total and not _over(state, settings):
            began, share = time.perf_counter(), state.step / total
            epoch, place = divmod(state.step, feed.steps)
            batch = feed(state.step)
            x = batch.x + settings.noise_sd * torch.randn_like(batch.x) if settings.noise_sd else batch.x
            batch = Batch(x.contiguous(memory_format=layout), batch.y, batch.row)
            rate = optim.learning_rate(settings.schedule, settings.lr, share, settings.milestones, settings.warmup)
            update(student, teacher, objective, batch, share, optimizer, rate, settings, state, memory)
            if average is not None:
                average.update_parameters(student)
            state.step += 1
            logs = state.step % settings.log_every == 0 or place + 1 == feed.steps
            if logs and device.type == "cuda":
                torch.cuda.synchronize(device)  # steps are only queued until then: without it their time would not be counted
            state.seconds += time.perf_counter() - began
            if progress is not None:
                progress(f"training, epoch {epoch + 1} of {settings.epochs}", state.step, total)
            if logs:
                _log_terms(state, log, epoch, share, rate)
            if place + 1 == feed.steps:
                _validate(kept, validation, watched, threat, settings, state, log, epoch, last=state.step == total)
                if settings.early_stopping and state.since_best == 0:
                    modules["best"].load_state_dict(kept.state_dict())
                if state.at_chance == 0 or not saved.exists():
                    _save(saved, modules, optimizer, memory, state)
            if interrupted():
                if all(value.isfinite() for value in state.sums.values()):
                    _save(saved, modules, optimizer, memory, state)
                raise KeyboardInterrupt
    return modules.get("best", kept).eval(), state.seconds


def _over(state: State, settings: Settings) -> bool:
    return bool(settings.early_stopping) and state.since_best >= settings.early_stopping


def update(
    student: nn.Module,
    teacher: nn.Module | None,
    objective: Objective,
    batch: Batch,
    share: float,
    optimizer: torch.optim.Optimizer,
    rate: float,
    settings: Settings,
    state: State,
    memory: dict[str, Tensor],
) -> None:
    """One update. No value is read back from the device here: the sums are looked at when they are logged."""

    def means() -> dict[str, Tensor]:
        with torch.autocast(batch.x.device.type, dtype=torch.bfloat16, enabled=settings.bf16):
            return {name: values.mean() for name, values in objective(student, teacher, batch, share).items()}

    optimizer.zero_grad(set_to_none=True)
    if settings.awp and share >= settings.awp_warmup:
        with _worst_weights(student, means, memory, settings.awp):
            terms = means()
            torch.stack(list(terms.values())).sum().backward()
    else:
        terms = means()
        torch.stack(list(terms.values())).sum().backward()
    if settings.clip:
        nn.utils.clip_grad_norm_(student.parameters(), settings.clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    for name, value in terms.items():
        state.sums[name] = state.sums.get(name, 0) + value.detach()
    state.count += 1


@contextmanager
def _worst_weights(
    student: nn.Module, means: Callable[[], dict[str, Tensor]], memory: dict[str, Tensor], gamma: float
) -> Iterator[None]:
    """Inside, matrices and kernels are perturbed to raise the loss (Wu et al. 2020, arXiv 2004.05884), and the objective sees the same
    attacked images and draws as in the call that found the direction: the attack is paid for once. That call leaves no trace in
    BatchNorm's statistics or in `memory`."""
    weights = [w for w in student.parameters() if w.ndim > 1 and w.requires_grad]
    buffers, remembered = {k: v.clone() for k, v in student.named_buffers()}, dict(memory)
    devices = [weights[0].device] if weights[0].is_cuda else []
    with torch.random.fork_rng(devices=devices), inner.remembering() as points:
        loss = torch.stack(list(means().values())).sum()
        gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
    with torch.no_grad():
        for k, v in student.named_buffers():
            v.copy_(buffers[k])
    memory.clear()
    memory.update(remembered)
    with optim.perturbed(weights, gradients, gamma), inner.repeating(points):
        yield


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
    model: nn.Module,
    validation: Split,
    watched: Split | None,
    threat: Threat,
    settings: Settings,
    state: State,
    log: Path,
    epoch: int,
    *,
    last: bool,
) -> None:
    """Clean accuracy of the validation images, PGD-20 accuracy of a sample of them, FGSM and PGD-20 of the watched training images.
    Stops a run whose student is a constant, and one that only withstands the single step that it is trained with."""
    clean = evaluate(model, validation.images(), validation.y, threat, attacks=()).accuracy("clean")
    n = settings.validation_attacked
    found = {"clean": clean}
    if n:
        few = sample(validation, n)
        found["pgd20"] = evaluate(model, few.images(), few.y, threat, attacks=("pgd20",)).accuracy("pgd20")
        state.since_best = 0 if found["pgd20"] > state.best else state.since_best + 1
        state.best = max(state.best, found["pgd20"])
    line: dict[str, object] = {"epoch": epoch, "step": state.step, "validation": found}
    if watched is not None:
        seen = evaluate(model, watched.images(), watched.y, threat, attacks=("fgsm", "pgd20"))
        fgsm, pgd = seen.accuracy("fgsm"), seen.accuracy("pgd20")
        line["training"] = {"fgsm": fgsm, "pgd20": pgd}
    _append(log, state, line)
    if watched is not None:
        state.fooled = state.fooled + 1 if pgd < fgsm / 4 and pgd <= fgsm - FALL else 0
        if (pgd <= state.best_watched - FALL and pgd <= fgsm - FALL) or state.fooled >= FOOLED or (state.fooled and last):
            raise Stopped(
                f"catastrophic overfitting: PGD-20 accuracy on training images was {state.best_watched:.0%} at best and is {pgd:.0%} while FGSM's is "
                f"{fgsm:.0%}: the student withstands the one step that it is trained with and nothing else. Try a smaller step_size, "
                f"objective gradalign, n_fgsm or pgd_at; the weights of the last good epoch are kept in {log.parent}"
            )
        state.best_watched = max(state.best_watched, pgd)
    _stop_constant(clean, validation, state, log, last=last)


def _stop_constant(clean: float, validation: Split, state: State, log: Path, *, last: bool) -> None:
    """Stops a run whose student has not beaten a constant for three epochs, or at the last, while the alignment fell and nothing else did."""
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


def _save(
    path: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, memory: dict[str, Tensor], state: State
) -> None:
    meta = {k: v for k, v in vars(state).items() if k != "sums"}
    extra = {f"sums/{k}": v for k, v in state.sums.items()} | {f"memory/{k}": v for k, v in memory.items()}
    checkpoint.save(path, modules, optimizer, extra, meta)


def _restore(
    path: Path,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    memory: dict[str, Tensor],
    log: Path,
    device: torch.device,
) -> State:
    """The state at the checkpoint, and `memory` filled; lines that were logged after it are cut off, for they will be written again."""
    extra, meta = checkpoint.load(path, modules, optimizer)
    memory.update({k.removeprefix("memory/"): v.to(device) for k, v in extra.items() if k.startswith("memory/")})
    sums = {k.removeprefix("sums/"): v.to(device) for k, v in extra.items() if k.startswith("sums/")}
    state = State(**meta, sums=sums)
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
        found = torch.device(name)
    except (RuntimeError, AssertionError):
        found = torch.device("meta")
    if found.type == "meta":
        raise BadInput(f"device '{name}' is not available here: use auto or cpu")
    return found
