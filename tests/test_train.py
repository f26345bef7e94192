"""The loop: it learns, it resumes as if nothing had happened, and it stops when it must."""

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kdiga import data, optim
from kdiga.errors import BadInput, Stopped
from kdiga.evaluate import Evaluation, evaluate
from kdiga.feed import Feed
from kdiga.models import Classifier, load
from kdiga.objectives import ce, kd, kdiga, kdiga_j, pgd_at
from kdiga.train import Settings, State, fit, pick_device, update
from kdiga.types import Batch, Objective, Terms, Threat

THREAT = Threat(norm=math.inf, eps=0.1)
QUICK = Settings(epochs=3, batch_size=32, lr=0.1, validation=60, validation_attacked=20, log_every=4, device="cpu")


def small() -> tuple[data.Split, data.Split]:
    digits = data.load("digits").train
    return data.carve(data.Split(digits.x[:320], digits.y[:320]), 60, 0)


def network(seed: int, spec: str = "cnn?width=4&act=silu") -> Classifier:
    torch.manual_seed(seed)
    return load(spec, shape=(1, 8, 8), classes=10).train()


def feed(training: data.Split, seed: int = 0, settings: Settings = QUICK) -> Feed:
    return Feed(training, batch_size=settings.batch_size, seed=seed, crop=1)


def train(out: Path, objective: Objective, settings: Settings = QUICK, *, resume: bool = False, teacher: nn.Module | None = None,
          progress: Callable[[str, int, int], None] | None = None, seed: int = 0, memory: dict[str, Tensor] | None = None,
          watched: data.Split | None = None) -> nn.Module:  # fmt: skip
    out.mkdir(exist_ok=True)
    training, validation = small()
    kept, seconds = fit(network(seed), teacher, objective, feed(training, seed, settings), validation, THREAT, settings, seed=seed, out=out,
                        memory=memory, watched=watched, resume=resume, progress=progress)  # fmt: skip
    assert seconds > 0
    return kept


def log(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def timeless(lines: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_it_learns_and_logs_terms_that_add_up(tmp_path: Path) -> None:
    train(tmp_path, partial(kdiga, iga_weight=0.01), replace(QUICK, epochs=12), teacher=network(3).eval())
    lines = log(tmp_path)
    steps = [line for line in lines if "terms" in line]
    assert all(line["loss"] == pytest.approx(sum(line["terms"].values())) for line in steps)  # type: ignore[attr-defined]
    assert all(line["terms"].keys() == {"ce", "kd", "iga"} for line in steps)  # type: ignore[attr-defined]
    clean = [line["validation"]["clean"] for line in lines if "validation" in line]  # type: ignore[index]
    assert len(clean) == 12
    assert clean[-1] > 0.6


def test_same_seed_same_weights_other_seed_other_weights(tmp_path: Path) -> None:
    one, again, other = (train(tmp_path / f"{i}", ce, seed=seed) for i, seed in enumerate((1, 1, 2)))
    assert same(one, again)
    assert not same(one, other)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_an_interrupted_run_ends_bit_equal(tmp_path: Path, signal_number: int, ema: float) -> None:
    """With a random objective, momentum, averaging and augmentation: whatever the state is, the checkpoint holds it."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    teacher = network(9).eval()
    objective, settings = partial(kdiga, threat=THREAT, point="random", iga_weight=0.05), replace(QUICK, ema=ema)
    whole = train(tmp_path / "whole", objective, settings, teacher=teacher)

    def interrupt(what: str, done: int, total: int) -> None:
        if done in (5, 17):  # the middle of an epoch and of a logging interval
            os.kill(os.getpid(), signal_number)

    out = tmp_path / "broken"
    for attempt in range(3):
        if attempt == 2:
            kept = train(out, objective, settings, teacher=teacher, resume=True)
        else:
            with pytest.raises(KeyboardInterrupt):
                train(out, objective, settings, teacher=teacher, resume=attempt > 0, progress=interrupt)
    assert same(whole, kept)
    assert timeless(log(tmp_path / "whole")) == timeless(log(out))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_run_that_was_killed_goes_on_from_its_last_epoch(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", ce)

    def die(what: str, done: int, total: int) -> None:
        if done == 13:
            raise MemoryError  # nothing is saved on the way out, as under SIGKILL

    with pytest.raises(MemoryError):
        train(tmp_path / "killed", ce, progress=die)
    assert same(whole, train(tmp_path / "killed", ce, resume=True))
    assert timeless(log(tmp_path / "whole")) == timeless(log(tmp_path / "killed"))


def test_validation_does_not_move_the_training(tmp_path: Path) -> None:
    objective = partial(pgd_at, threat=THREAT, steps=2)
    with_, without = (train(tmp_path / str(n), objective, replace(QUICK, validation_attacked=n)) for n in (20, 0))
    assert same(with_, without)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_epoch(tmp_path: Path) -> None:
    def breaks(student: nn.Module, teacher: nn.Module | None, batch: Batch, progress: float) -> Terms:
        terms = ce(student, teacher, batch, progress)
        return {**terms, "iga": terms["ce"] * (math.nan if progress > 0.5 else 0.0)}

    with pytest.raises(Stopped, match=r"not finite at step \d+ \(term .*iga\).*smaller lr.*last good epoch"):
        train(tmp_path, breaks)
    saved = load_file(tmp_path / "checkpoint" / "last.safetensors")
    assert all(v.isfinite().all() for v in saved.values() if v.is_floating_point())


def test_a_student_that_collapses_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    """A term that is least when the student ignores its input: what alignment with a vanishing gradient amounts to."""
    constant = 3 * torch.eye(10)[0]

    def collapses(student: nn.Module, teacher: nn.Module | None, batch: Batch, progress: float) -> Terms:
        z = student(batch.x)
        own = nn.functional.cross_entropy(z, batch.y, reduction="none")
        if progress < 0.4:
            return {"ce": own, "iga": torch.full_like(own, 1e3)}
        return {"ce": own.detach(), "iga": (z - constant).pow(2).sum(1)}

    with pytest.raises(Stopped, match=r"collapsed to a constant.*alignment term fell.*smaller iga_weight.*point=random.*act=silu"):
        train(tmp_path, collapses, replace(QUICK, epochs=30, validation_attacked=0))
    clean = {int(str(line["step"])): line["validation"]["clean"] for line in log(tmp_path) if "validation" in line}  # type: ignore[index]
    saved = load_file(tmp_path / "checkpoint" / "last.safetensors")
    (step,) = {int(v) for k, v in saved.items() if k.endswith("num_batches_tracked")}
    assert clean[max(clean)] < 0.2 < clean[step]
    assert all(accuracy <= 0.2 for later, accuracy in clean.items() if later > step)


def test_resuming_without_or_with_a_broken_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing to resume"):
        train(tmp_path / "none", ce, resume=True)
    train(tmp_path / "run", ce, replace(QUICK, epochs=1))
    path = tmp_path / "run" / "checkpoint" / "last.safetensors"
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"\xff" * 100, whole.replace(b'"kdiga"', b'"kdxga"', 1)):
        path.write_bytes(broken)
        with pytest.raises(BadInput, match="not a readable checkpoint"):
            train(tmp_path / "run", ce, resume=True)
    path.write_bytes(whole)
    training, validation = small()
    with pytest.raises(BadInput, match="another model"):
        fit(
            network(0, "cnn?width=6"),
            None,
            ce,
            feed(training),
            validation,
            THREAT,
            QUICK,
            seed=0,
            out=tmp_path / "run",
            resume=True,
        )


def test_the_average_is_what_is_kept(tmp_path: Path) -> None:
    plain, kept = train(tmp_path / "plain", ce), train(tmp_path / "ema", ce, replace(QUICK, ema=0.9))
    assert not same(plain, kept)


def test_bfloat16_and_channels_last_train_too(tmp_path: Path) -> None:
    settings = replace(QUICK, epochs=1, bf16=True, channels_last=True)
    kept = train(tmp_path, partial(kdiga, point="random", threat=THREAT, iga_weight=0.05), settings, teacher=network(3).eval())
    assert all(v.isfinite().all() for v in kept.state_dict().values())


def test_weights_never_see_validation_images(tmp_path: Path) -> None:
    training, validation = small()
    seen: list[Tensor] = []

    def record(student: nn.Module, teacher: nn.Module | None, batch: Batch, progress: float) -> Terms:
        assert torch.equal(batch.y, training.y[batch.row])
        seen.append(batch.row)
        return ce(student, teacher, batch, progress)

    train(tmp_path, record)
    per_epoch = len(training) // 32
    for epoch in range(3):
        rows = torch.cat(seen[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert len(rows.unique()) == len(rows)  # without replacement
    assert not torch.equal(seen[0], seen[per_epoch])
    flat = {t.numpy().tobytes() for t in training.x}
    assert sum(v.numpy().tobytes() in flat for v in validation.x) <= 1  # digits repeats hardly any image


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 1),
        ("lr", 0.0),
        ("ema", 1.0),
        ("log_every", 0),
        ("clip", -1.0),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("validation_attacked", -1),
        ("noise_sd", -0.1),
        ("awp", 1.5),
        ("awp_warmup", -0.1),
        ("extra_fraction", 1.0),
        ("early_stopping", -1),
    ],
)
def test_settings_out_of_range(name: str, value: float) -> None:
    with pytest.raises(BadInput, match=f"{name} is"):
        Settings(**{name: value})  # type: ignore[arg-type]


def test_unknown_device() -> None:
    with pytest.raises(BadInput, match="use auto or cpu"):
        pick_device("gpu7")


def test_early_stopping_keeps_the_best_epoch_and_resumes(tmp_path: Path) -> None:
    """An objective that learns, then unlearns: the weights kept are those of the epoch with the best PGD-20 accuracy."""

    def fades(student: nn.Module, teacher: nn.Module | None, batch: Batch, progress: float) -> Terms:
        terms = pgd_at(student, teacher, batch, progress, threat=THREAT, steps=2)
        return terms if progress < 0.5 else {"ce": -terms["ce"].clamp_max(20)}

    settings = replace(QUICK, epochs=12, early_stopping=2, schedule="constant", lr=0.05)
    kept = train(tmp_path / "whole", fades, settings)
    found = [line["validation"]["pgd20"] for line in log(tmp_path / "whole") if "validation" in line]  # type: ignore[index]
    best = max(range(len(found)), key=lambda i: found[i])
    assert len(found) == best + 3 < 12
    _, validation = small()
    few = data.sample(validation, 20)
    assert evaluate(kept, few.images(), few.y, THREAT, attacks=("pgd20",)).accuracy("pgd20") == found[best]

    def interrupt(what: str, done: int, total: int) -> None:
        if done == 8 * (best + 1) + 3:  # the best epoch is over
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", fades, settings, progress=interrupt)
    assert same(kept, train(tmp_path / "broken", fades, settings, resume=True))


def test_early_stopping_needs_the_attack(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"validation_attacked is 0.*early_stopping"):
        Settings(early_stopping=3, validation_attacked=0)


def test_catastrophic_overfitting_stops_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the detector is told is made up; that it happens in training is shown on real runs (docs/results.md)."""
    told = iter([(0.5, 0.4), (0.6, 0.5), (0.55, 0.31), (0.45, 0.29), (0.9, 0.2)])

    def made_up(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, attacks: tuple[str, ...] = ()) -> Evaluation:
        if "fgsm" not in attacks:
            return evaluate(model, x, y, threat, attacks=attacks)
        share = next(told)
        robust = {name: torch.arange(100) < 100 * value for name, value in zip(attacks, share, strict=True)}
        return Evaluation(threat=threat, n=100, robust=robust, seconds={})

    monkeypatch.setattr("kdiga.train.evaluate", made_up)
    training, _ = small()
    with pytest.raises(
        Stopped, match=r"catastrophic overfitting: .* 50% at best and is 20% while FGSM's is 90%.*gradalign.*last good epoch"
    ):
        train(tmp_path, ce, replace(QUICK, epochs=9), watched=training)
    lines = [line["training"] for line in log(tmp_path) if "training" in line]
    assert lines[-1] == {"fgsm": pytest.approx(0.9), "pgd20": pytest.approx(0.2)}
    assert len(lines) == 5  # neither a fall with FGSM's (epoch 4) nor a gap without a fall (epoch 3) stops a run
    steps = {
        int(v) for k, v in load_file(tmp_path / "checkpoint" / "last.safetensors").items() if k.endswith("num_batches_tracked")
    }
    assert steps == {4 * 8}


@pytest.mark.parametrize(
    ("epochs", "told", "stops"), [(9, [(0.3, 0.01)] * 9, 3), (2, [(0.3, 0.3), (0.3, 0.05)], 2), (3, [(0.6, 0.3)] * 3, 0)]
)
def test_a_student_fooled_from_the_start_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int, told: list[tuple[float, float]], stops: int
) -> None:
    """Three epochs in a row, or the last, in which PGD leaves next to nothing of FGSM's accuracy; a healthy gap is no alarm."""
    left = iter(told)

    def made_up(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, attacks: tuple[str, ...] = ()) -> Evaluation:
        if "fgsm" not in attacks:
            return evaluate(model, x, y, threat, attacks=attacks)
        robust = {name: torch.arange(100) < 100 * value for name, value in zip(attacks, next(left), strict=True)}
        return Evaluation(threat=threat, n=100, robust=robust, seconds={})

    monkeypatch.setattr("kdiga.train.evaluate", made_up)
    if stops:
        with pytest.raises(Stopped, match="catastrophic overfitting"):
            train(tmp_path, ce, replace(QUICK, epochs=epochs), watched=small()[0])
    else:
        train(tmp_path, ce, replace(QUICK, epochs=epochs), watched=small()[0])
    assert sum("training" in line for line in log(tmp_path)) == (stops or epochs)


def test_memory_outlives_an_interruption(tmp_path: Path) -> None:
    def counts(memory: dict[str, Tensor], student: nn.Module, teacher: nn.Module | None, batch: Batch, progress: float) -> Terms:
        memory["mean"] = 0.9 * memory.get("mean", torch.zeros(())) + 0.1 * batch.x.mean()
        return {name: v * (1 + memory["mean"]) for name, v in ce(student, teacher, batch, progress).items()}

    def interrupt(what: str, done: int, total: int) -> None:
        if done == 13:
            os.kill(os.getpid(), signal.SIGTERM)

    first: dict[str, Tensor] = {}
    whole = train(tmp_path / "whole", partial(counts, first), memory=first)
    half: dict[str, Tensor] = {}
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", partial(counts, half), memory=half, progress=interrupt)
    rest: dict[str, Tensor] = {}
    assert same(whole, train(tmp_path / "broken", partial(counts, rest), memory=rest, resume=True))
    assert torch.equal(rest["mean"], first["mean"])


def one_step(objective: Objective, settings: Settings, memory: dict[str, Tensor] | None = None) -> tuple[nn.Module, State]:
    training, _ = small()
    student, state = network(0), State()
    optimizer = optim.sgd(student, lr=0.1, momentum=0.0, weight_decay=0.0)
    torch.manual_seed(5)
    update(student, None, objective, feed(training)(0), 0.5, optimizer, 0.1, settings, state, {} if memory is None else memory)
    return student, state


def test_weight_perturbation_is_the_formula() -> None:
    """The update is the gradient at w + gamma ||w|| g / ||g||, taken from w; norms and biases are not moved; BatchNorm sees one forward."""
    settings = replace(QUICK, awp=0.05, clip=0.0)
    found, _ = one_step(ce, settings)
    training, _ = small()
    batch, moved = feed(training)(0), network(0)
    before = {k: v.clone() for k, v in moved.state_dict().items()}
    ce(moved, None, batch, 0.5)["ce"].mean().backward()
    with torch.no_grad():
        for w in moved.parameters():
            if w.ndim > 1:
                assert w.grad is not None
                w.add_(0.05 * w.norm() * w.grad / w.grad.norm())
    moved.zero_grad()
    for k, v in moved.named_buffers():
        v.copy_(before[k])
    ce(moved, None, batch, 0.5)["ce"].mean().backward()
    for (name, w), new in zip(moved.named_parameters(), found.parameters(), strict=True):
        assert w.grad is not None
        assert torch.allclose(new, before[name] - 0.1 * w.grad, atol=1e-6), name
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found.buffers(), moved.buffers(), strict=True))
    plain, _ = one_step(ce, replace(settings, awp=0.0))
    assert not same(found, plain)


def test_weight_perturbation_attacks_once_and_forgets_the_first_call() -> None:
    ascents: list[Tensor] = []
    seen: list[Tensor] = []
    memory = {"calls": torch.zeros(())}

    def counted(student: nn.Module, teacher: nn.Module | None, batch: Batch, progress: float) -> Terms:
        memory["calls"] = memory["calls"] + 1
        hook = student.register_forward_pre_hook(
            lambda _, args: (ascents if not student.training else seen).append(args[0].detach())
        )
        terms = pgd_at(student, teacher, batch, progress, threat=THREAT, steps=3)
        hook.remove()
        return terms

    one_step(counted, replace(QUICK, awp=0.01), memory)
    assert len(ascents) == 3
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])
    assert memory["calls"] == 1


def test_weight_perturbation_waits_for_its_warmup() -> None:
    early, _ = one_step(ce, replace(QUICK, awp=0.05, awp_warmup=0.6))
    never, _ = one_step(ce, QUICK)
    assert same(early, never)


def test_noise_is_added_to_what_student_and_teacher_see_and_is_not_clipped(tmp_path: Path) -> None:
    training, _ = small()
    seen: list[Tensor] = []

    def record(student: nn.Module, teacher: nn.Module | None, batch: Batch, progress: float) -> Terms:
        seen.append(batch.x)
        return ce(student, teacher, batch, progress)

    train(tmp_path, record, replace(QUICK, noise_sd=0.25))
    clean = torch.cat([feed(training)(step).x for step in range(len(seen))])
    noise = torch.cat(seen) - clean
    assert noise.std().item() == pytest.approx(0.25, rel=0.01)
    assert abs(noise.mean().item()) < 0.005
    assert torch.cat(seen).min().item() < -0.5
    assert torch.cat(seen).max().item() > 1.5
    assert not torch.equal(noise[:32], noise[32:64])


@pytest.mark.parametrize("objective", [ce, kd, kdiga, partial(kdiga_j, threat=THREAT), partial(pgd_at, threat=THREAT, steps=2)])
def test_objectives_learn_under_noise(tmp_path: Path, objective: Objective) -> None:
    settings = replace(QUICK, epochs=2, noise_sd=0.25, validation_attacked=0)
    kept = train(tmp_path, objective, settings, teacher=network(9).eval())
    assert all(v.isfinite().all() for v in kept.state_dict().values())
    losses = [float(str(line["loss"])) for line in log(tmp_path) if "loss" in line]
    assert losses[-1] < losses[0]


def test_a_noisy_run_that_was_interrupted_ends_bit_equal(tmp_path: Path) -> None:
    settings = replace(QUICK, noise_sd=0.25)
    whole = train(tmp_path / "whole", ce, settings)

    def interrupt(what: str, done: int, total: int) -> None:
        if done == 11:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", ce, settings, progress=interrupt)
    assert same(whole, train(tmp_path / "broken", ce, settings, resume=True))
    assert not same(whole, train(tmp_path / "plain", ce))
