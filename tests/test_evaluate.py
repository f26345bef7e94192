"""Evaluation: what a column means, what is believed, what is kept on disk. Attacks are stand-ins unless the numbers are at issue."""

import json
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdiga.attacks import ATTACKS, AUTOATTACK, autoattack
from kdiga.errors import BadInput
from kdiga.evaluate import Evaluation, evaluate, records
from kdiga.evaluate.checks import check_input
from kdiga.evaluate.stage import stream
from kdiga.stats import wilson
from kdiga.types import Threat

THREAT = Threat(norm=inf, eps=0.25)


class Mean(nn.Module):
    """Two classes: the image's mean is below or above 1/2. NaN logits where it is exactly 0.875."""

    def __init__(self, classes: int = 2, act: nn.Module | None = None) -> None:
        super().__init__()
        self.act = act
        self.scale = nn.Parameter(torch.ones(classes))
        self.info = SimpleNamespace(shape=(1, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        m = x.mean((1, 2, 3))
        z = self.scale * torch.stack([0.5 - m, m - 0.5] + [m - 9] * (len(self.scale) - 2), 1)
        return torch.where((m == 0.875)[:, None], torch.nan, z)


def images(*means: float) -> Tensor:
    return torch.tensor(means)[:, None, None, None].expand(-1, 1, 2, 2).clone()


class Stub:
    """An attack that returns what `change` makes of the images, and notes what it was given."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        self.change, self.given, self.random = change, list[list[float]](), list[int]()

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        assert not model.training
        self.given.append([round(v, 4) for v in x[:, 0, 0, 0].tolist()])
        self.random.append(int(torch.randint(2**40, ())))
        return self.change(x)


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Stub]:
    """Every attack fails, unless a test changes it."""
    made = {name: Stub(lambda x: x) for name in ATTACKS}
    for name, stub in made.items():
        monkeypatch.setitem(ATTACKS, name, stub)
    return made


def breaks(*means: float) -> Callable[[Tensor], Tensor]:
    """Images of these means turned upside down, which is far outside the threat unless the mean is near 1/2."""
    return lambda x: torch.where(torch.isin(x, torch.tensor(means)), 1 - x, x)


# --- what a column means


def test_cheap_attacks_see_all_that_is_right_and_members_what_is_left(stubs: dict[str, Stub]) -> None:
    x, y = images(0.1, 0.4, 0.42, 0.44, 0.46, 0.6), torch.tensor([0, 0, 0, 0, 0, 0])  # the last one is wrong from the start
    stubs["fgsm"].change = breaks(0.4)
    stubs["pgd20"].change = breaks(0.42)
    stubs["apgd-ce"].change = breaks(0.44)
    stubs["fab-t"].change = breaks(0.46)
    found = evaluate(Mean(), x, y, THREAT, attacks=("fgsm", "pgd20", "autoattack"))
    right = [0.1, 0.4, 0.42, 0.44, 0.46]
    assert stubs["fgsm"].given == [right]
    assert stubs["pgd20"].given == [right]
    assert stubs["apgd-ce"].given == [[0.1, 0.44, 0.46]]
    assert stubs["apgd-t"].given == [[0.1, 0.46]]
    assert stubs["fab-t"].given == [[0.1, 0.46]]
    assert stubs["square"].given == [[0.1]]
    assert list(found.robust) == ["clean", "fgsm", "pgd20", "autoattack"]
    assert found.robust["clean"].tolist() == [True, True, True, True, True, False]
    assert found.robust["fgsm"].tolist() == [True, False, True, True, True, False]
    assert found.robust["pgd20"].tolist() == [True, True, False, True, True, False]
    assert found.robust["autoattack"].tolist() == [True, False, False, False, False, False]
    assert {name: int(left.sum()) for name, left in found.cascade.items()} == {"apgd-ce": 2, "apgd-t": 2, "fab-t": 1, "square": 1}
    assert found.accuracy("fgsm") == 4 / 6
    assert found.interval("fgsm") == wilson(4, 6)
    assert found.seconds["autoattack"] == pytest.approx(sum(found.seconds[name] for name in AUTOATTACK))


def test_an_attack_after_autoattack_counts_in_the_worst_case(stubs: dict[str, Stub]) -> None:
    stubs["pgd20"].change = breaks(0.4)
    found = evaluate(Mean(), images(0.1, 0.4), torch.tensor([0, 0]), THREAT, attacks=("autoattack", "pgd20"))
    assert found.robust["autoattack"].tolist() == [True, False]
    assert stubs["square"].given == [[0.1, 0.4]]


def test_no_attack_is_clean_accuracy_only() -> None:
    found = evaluate(Mean(), images(0.1, 0.6, 0.7), torch.tensor([0, 0, 1]), THREAT, attacks=())
    assert found.accuracy("clean") == 2 / 3
    with pytest.raises(BadInput, match="'pgd20' was not evaluated, only clean"):
        found.accuracy("pgd20")


def test_survivors_are_packed_into_full_batches(stubs: dict[str, Stub]) -> None:
    x = images(0.1, 0.4, 0.2, 0.41, 0.3, 0.42, 0.15)
    stubs["apgd-ce"].change = breaks(0.4, 0.41, 0.42)
    told: list[tuple[str, int, int]] = []
    evaluate(
        Mean(),
        x,
        torch.zeros(7, dtype=torch.int64),
        THREAT,
        attacks=("apgd-ce", "square"),
        batch_size=3,
        progress=lambda *t: told.append(t),
    )
    assert [len(batch) for batch in stubs["apgd-ce"].given] == [3, 3, 1]
    assert stubs["square"].given == [[0.1, 0.2, 0.3], [0.15]]
    assert told == [
        *(("clean", done, 7) for done in (3, 6, 7)),
        *(("apgd-ce", done, 7) for done in (0, 3, 6, 7)),
        *(("square", done, 4) for done in (0, 3, 4)),
    ]


# --- an attack is not believed


def test_images_are_brought_into_the_ball_and_the_box_before_they_count(stubs: dict[str, Stub]) -> None:
    stubs["fgsm"].change = lambda x: x + 1  # by as much as allowed: 0.25
    found = evaluate(Mean(), images(0.1, 0.3), torch.tensor([0, 0]), THREAT, attacks=("fgsm",))
    assert found.robust["fgsm"].tolist() == [True, False]
    l2 = Threat(norm=2.0, eps=0.5)  # 0.25 in each of four pixels
    assert evaluate(Mean(), images(0.1, 0.3), torch.tensor([0, 0]), l2, attacks=("fgsm",)).robust["fgsm"].tolist() == [True, False]
    bright = torch.tensor([[[[0.98, 0.98, 0.98, 0.0]]]]).view(1, 1, 2, 2)  # 0.735; the box lets only the last pixel grow
    model = Mean()
    with torch.no_grad():
        model.scale.fill_(-1.0)  # class 0 above 1/2
    stubs["fgsm"].change = lambda x: torch.where(x > 0.5, torch.full_like(x, 1e30), x)
    assert evaluate(model, bright, torch.tensor([0]), THREAT, attacks=("fgsm",)).robust["fgsm"].tolist() == [True]


def test_a_success_outside_the_threat_does_not_count(stubs: dict[str, Stub]) -> None:
    stubs["square"].change = lambda x: 1 - x
    found = evaluate(Mean(), images(0.1, 0.45), torch.tensor([0, 0]), THREAT, attacks=("square",))
    assert found.robust["square"].tolist() == [True, False]


def test_an_attack_cannot_repair_a_sample(stubs: dict[str, Stub]) -> None:
    for name in ("fgsm", "square"):
        stubs[name].change = lambda x: 1 - x
    found = evaluate(Mean(), images(0.45, 0.55), torch.tensor([1, 1]), THREAT, attacks=("fgsm", "square"))
    assert [found.robust[name].tolist() for name in ("clean", "fgsm", "square")] == [[False, True], [False, False], [False, False]]


@pytest.mark.parametrize("bad", [float("nan"), inf, -inf])
def test_an_image_that_is_not_a_number_is_a_failed_attack(stubs: dict[str, Stub], bad: float) -> None:
    def change(x: Tensor) -> Tensor:
        u = 1 - x
        u[0, 0, 0, 0] = bad
        return u

    stubs["fgsm"].change = change
    found = evaluate(Mean(), images(0.45, 0.45), torch.tensor([0, 0]), THREAT, attacks=("fgsm",))
    assert found.robust["fgsm"].tolist() == [True, False]


def test_logits_that_are_not_numbers_are_misclassifications(stubs: dict[str, Stub]) -> None:
    stubs["fgsm"].change = lambda x: torch.full_like(x, 0.875)
    for label in (0, 1):  # argmax alone would take NaN for the largest
        found = evaluate(Mean(), images(0.875, 0.7), torch.tensor([label, 1]), THREAT, attacks=("fgsm",))
        assert found.robust["clean"].tolist() == [False, True]
        assert found.robust["fgsm"].tolist() == [False, False]


# --- the numbers


@pytest.mark.parametrize("threat", [Threat(norm=inf, eps=0.02), Threat(norm=2.0, eps=0.08)], ids=str)
def test_autoattack_is_exact_on_a_linear_model(threat: Threat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two classes; images away from the box: robust where the margin is above eps times the dual norm of the weights."""
    monkeypatch.setattr(autoattack, "QUERIES", 200)
    torch.manual_seed(0)
    last = nn.Linear(36, 2)
    model = nn.Sequential(nn.Flatten(), last)
    x = 0.3 + 0.4 * torch.rand(40, 1, 6, 6)
    with torch.no_grad():
        last.bias.copy_(-(x.flatten(1) @ last.weight.T).mean(0))
        z = model(x)
        w = last.weight[0] - last.weight[1]
    reach = threat.eps * float(w.abs().sum() if threat.norm == inf else w.norm())
    y, lead = z.argmax(1), (z[:, 0] - z[:, 1]).abs()
    clear = (lead - reach).abs() > 0.02 * reach
    exact = (lead > reach)[clear]
    found = evaluate(model, x[clear], y[clear], threat, attacks=("autoattack",))
    assert 0.2 < exact.float().mean() < 0.8
    assert torch.equal(found.robust["autoattack"], exact)


def test_the_cascade_is_autoattack_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same survivors after each member as the package's own cascade, given the same seeds."""
    from pyautoattack import AutoAttack

    monkeypatch.setattr(autoattack, "QUERIES", 300)
    torch.manual_seed(0)
    model = (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(64, 10))
        .eval()
        .requires_grad_(False)
    )
    x, threat = torch.rand(16, 1, 6, 6), Threat(norm=inf, eps=0.04)
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 4
    found = evaluate(model, x, y, threat, attacks=("autoattack",), seed=7)

    left, seeds = found.robust["clean"], []
    with torch.random.fork_rng():
        for name in AUTOATTACK:
            torch.manual_seed(stream(7, name, int(left.nonzero()[0])))
            seeds.append(int(torch.randint(2**31, ())))
            left = found.cascade[name]
        whole = AutoAttack(model, eps=threat.eps, version="standard")
        whole.square.n_queries, whole.fab.n_target_classes, whole.apgd_targeted.n_target_classes = 300, 3, 3
        seed: Iterator[int] = iter(seeds)
        whole.get_seed = lambda: next(seed)
        _, labels = whole.run_standard_evaluation(x, y)
    assert torch.equal(found.robust["autoattack"], labels == y)
    assert 2 <= found.robust["autoattack"].sum() <= 12
    assert len({int(left.sum()) for left in found.cascade.values()}) > 1  # more than one member had a part in it


# --- random numbers, and what is left behind


def test_another_attack_in_the_list_changes_nothing_for_the_rest(stubs: dict[str, Stub]) -> None:
    x, y = images(*torch.linspace(0.1, 0.4, 7).tolist()), torch.zeros(7, dtype=torch.int64)
    evaluate(Mean(), x, y, THREAT, attacks=("pgd20",), batch_size=3)
    torch.manual_seed(99)
    evaluate(Mean(), x, y, THREAT, attacks=("fgsm", "pgd100", "pgd20"), batch_size=3)
    drawn = stubs["pgd20"].random
    assert drawn[:3] == drawn[3:]
    assert len({*drawn, *stubs["fgsm"].random, *stubs["pgd100"].random}) == 9  # each batch and attack its own
    evaluate(Mean(), x, y, THREAT, attacks=("pgd20",), batch_size=3, seed=1)
    assert not set(drawn[:3]) & set(stubs["pgd20"].random[6:])


def test_the_seed_of_a_batch_is_the_same_in_every_process() -> None:
    assert stream(0, "pgd20", 0) == 0x19905661E2E001


def test_model_generators_and_hooks_are_left_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoattack, "QUERIES", 20)
    monkeypatch.setattr(autoattack, "STEPS", 5)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)).train()
    model[0].weight.requires_grad_(False)
    state, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    with torch.no_grad():
        evaluate(model, torch.zeros(4, 1, 6, 6), torch.tensor([0, 1, 2, 0]), THREAT)
        assert not torch.is_grad_enabled()
    assert all(m.training for m in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_the_callers_inference_mode_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoattack, "QUERIES", 20)
    model, y = Mean(), torch.tensor([0, 0])
    expected = evaluate(model, images(0.1, 0.4), y, THREAT)
    with torch.inference_mode():
        found = evaluate(model, images(0.1, 0.4), y.clone(), THREAT)
    assert {k: v.tolist() for k, v in found.robust.items()} == {k: v.tolist() for k, v in expected.robust.items()}
    assert found.accuracy("autoattack") == 0.5


def test_the_packages_own_cascade_checks_and_resume_file_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyautoattack.autoattack
    import pyautoattack.checks

    def used(*_: object, **__: object) -> None:
        raise AssertionError("used")

    monkeypatch.setattr(autoattack, "QUERIES", 5)
    monkeypatch.setattr(autoattack, "STEPS", 5)
    monkeypatch.setattr(pyautoattack.autoattack.AutoAttack, "__init__", used)
    monkeypatch.setattr(pyautoattack.autoattack, "EvaluationState", used)
    for check in ("check_dynamic", "check_randomized", "check_range_output", "check_n_classes"):
        monkeypatch.setattr(pyautoattack.checks, check, used)
    assert evaluate(Mean(), images(0.1, 0.4), torch.tensor([0, 0]), THREAT, attacks=("autoattack",)).accuracy("autoattack") == 0.5


# --- on disk


def run(out: Path, model: nn.Module | None = None, **options: Any) -> Evaluation:
    x, y = images(0.1, 0.4, 0.2, 0.41, 0.3), torch.zeros(5, dtype=torch.int64)
    settings: dict[str, Any] = {"attacks": ("fgsm", "autoattack"), "batch_size": 2}
    return evaluate(model or Mean(), x, y, THREAT, out=out, **settings | options)


def calls(stubs: dict[str, Stub]) -> dict[str, int]:
    counts = {name: len(stub.given) for name, stub in stubs.items() if stub.given}
    for stub in stubs.values():
        stub.given.clear()
    return counts


def same(a: Evaluation, b: Evaluation) -> bool:
    return list(a.robust) == list(b.robust) and all(
        torch.equal(u[k], v[k]) for u, v in ((a.robust, b.robust), (a.cascade, b.cascade)) for k in u
    )


def test_an_interrupted_evaluation_goes_on_where_it_stopped(stubs: dict[str, Stub], tmp_path: Path) -> None:
    stubs["fgsm"].change, stubs["apgd-ce"].change, stubs["fab-t"].change = breaks(0.4), breaks(0.41), breaks(0.3)
    whole = run(tmp_path / "whole")
    assert calls(stubs) == {"fgsm": 3, "apgd-ce": 2, "apgd-t": 2, "fab-t": 2, "square": 1}

    def stop(what: str, done: int, total: int) -> None:
        if (what, done) == ("apgd-t", 2):
            raise KeyboardInterrupt

    out = tmp_path / "cut"
    out.mkdir()
    (out / "evaluation.json").write_text("of another model")
    with pytest.raises(KeyboardInterrupt):
        run(out, progress=stop)
    assert calls(stubs) == {"fgsm": 3, "apgd-ce": 2, "apgd-t": 1}
    assert not (out / "evaluation.json").exists()
    resumed = run(out)
    assert calls(stubs) == {"apgd-t": 1, "fab-t": 2, "square": 1}
    assert same(resumed, whole)
    assert same(run(out), whole)
    assert calls(stubs) == {}
    assert run(out).seconds["fgsm"] == resumed.seconds["fgsm"]


def test_more_attacks_later_use_what_is_there(stubs: dict[str, Stub], tmp_path: Path) -> None:
    run(tmp_path, attacks=("fgsm", "apgd-ce"))
    assert calls(stubs) == {"fgsm": 3, "apgd-ce": 3}
    run(tmp_path, attacks=("pgd20",))
    assert calls(stubs) == {"pgd20": 3}
    run(tmp_path, attacks=("fgsm", "apgd-ce", "square"))
    assert calls(stubs) == {"square": 3}
    stubs["pgd100"].change = breaks(0.4)  # now apgd-ce comes after a success and sees other samples
    run(tmp_path, attacks=("pgd100", "apgd-ce"))
    assert calls(stubs) == {"pgd100": 3, "apgd-ce": 2}


@pytest.mark.parametrize("change", ["weights", "structure", "seed", "batch_size", "threat", "images", "labels"])
def test_another_question_is_not_answered_from_the_file(stubs: dict[str, Stub], tmp_path: Path, change: str) -> None:
    x, y = images(0.1, 0.4, 0.4), torch.tensor([0, 0, 1])

    def ask(model: nn.Module, x: Tensor, y: Tensor, threat: Threat = THREAT, **more: Any) -> int:
        evaluate(model, x, y, threat, attacks=("fgsm",), out=tmp_path, **more)
        return calls(stubs).get("fgsm", 0)

    assert ask(Mean(3), x, y) == 1
    assert ask(Mean(3), x, y) == 0
    model = Mean(3)
    with torch.no_grad():
        model.scale.mul_(2)
    found = {
        "weights": lambda: ask(model, x, y),
        "structure": lambda: ask(Mean(3, act=nn.ReLU()), x, y),
        "seed": lambda: ask(Mean(3), x, y, seed=1),
        "batch_size": lambda: ask(Mean(3), x, y, batch_size=3),
        "threat": lambda: ask(Mean(3), x, y, Threat(norm=2.0, eps=0.25)),
        "images": lambda: ask(Mean(3), x + 0.001, y),
        "labels": lambda: ask(Mean(3), x, torch.tensor([0, 0, 2])),  # wrong as before: the same rows are attacked
    }[change]()
    assert found == 1


def test_a_damaged_or_foreign_file_is_done_without(stubs: dict[str, Stub], tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = tmp_path / "per_sample.safetensors"
    whole = run(tmp_path, attacks=("fgsm", "square"), batch_size=5)
    once = calls(stubs)
    good = path.read_bytes()
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    five = torch.ones(5, dtype=torch.uint8)
    foreign = [
        ({"fgsm": five}, None),
        ({"fgsm": five}, {"fingerprint": "x", "records": "{}"}),
        ({"fgsm": five}, about | {"records": "not json"}),
        ({"fgsm": five}, about | {"records": '["fgsm"]'}),
        ({"fgsm": five}, about | {"records": '{"fgsm": {"rows": 1, "done": "x", "seconds": 0}}'}),
        ({"other": five}, about),
        ({"fgsm": five[:3], "square": five}, about),
        ({name: five.float() for name in ("fgsm", "square")}, about),
    ]
    for tensors, metadata in foreign:
        save_file({k: v.clone() for k, v in tensors.items()}, path, metadata)
        assert same(run(tmp_path, attacks=("fgsm", "square"), batch_size=5), whole)
        assert calls(stubs) == once
    for damaged in (b"", b"\xff" * 64, good[:-3], good[: len(good) // 2], (2**62).to_bytes(8, "little") + good[8:]):
        path.write_bytes(damaged)
        assert same(run(tmp_path, attacks=("fgsm", "square"), batch_size=5), whole)
        assert calls(stubs) == once


def test_the_files_say_what_was_found(stubs: dict[str, Stub], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    stubs["fgsm"].change, stubs["apgd-t"].change = breaks(0.4), breaks(0.41)
    found = run(tmp_path / "a" / "b", seed=3)
    columns = load_file(tmp_path / "a" / "b" / "per_sample.safetensors")
    assert set(columns) == {"clean", "fgsm", *AUTOATTACK, "autoattack"}
    assert all(columns[k].tolist() == v.int().tolist() for k, v in (found.robust | found.cascade).items())
    told = json.loads((tmp_path / "a" / "b" / "evaluation.json").read_text())
    assert told["threat"] == {"norm": "linf", "eps": 0.25}
    assert (told["n"], told["seed"], told["batch_size"]) == (5, 3, 2)
    assert told["accuracy"] == {"clean": 1.0, "fgsm": 0.8, "autoattack": 0.6}
    assert told["interval"]["autoattack"] == pytest.approx(wilson(3, 5))
    assert told["cascade"] == {"apgd-ce": 0.8, "apgd-t": 0.6, "fab-t": 0.6, "square": 0.6}
    assert set(told["seconds"]) == {"clean", "fgsm", *AUTOATTACK, "autoattack"}
    assert set(told["versions"]) == {"kdiga", "torch", "pyautoattack"}
    assert len(told["fingerprint"]) == 64
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["evaluation.json", "per_sample.safetensors"]


# --- bad input


def test_what_is_refused() -> None:
    x, y = images(0.1, 0.4), torch.tensor([0, 0])
    refusals: dict[str, Callable[[], object]] = {
        "no attack 'pgd21': did you mean 'pgd20'": lambda: evaluate(Mean(), x, y, THREAT, attacks=("pgd21",)),
        r"images must lie in \[0, 1\], found 25.5 to 102: divide by 255": lambda: evaluate(Mean(), x * 255, y, THREAT),
        r"found -0.9 to -0.6: normalisation belongs inside the model": lambda: evaluate(Mean(), x - 1, y, THREAT),
        "must be float32 in .0, 1., got torch.float64": lambda: evaluate(Mean(), x.double(), y, THREAT),
        "got torch.uint8": lambda: check_input((x * 255).byte(), y, 1),
        "labels must be int64, one for each of the 2 images, got torch.int32": lambda: check_input(x, y.int(), 1),
        r"got torch.int64 of shape \(3,\)": lambda: check_input(x, torch.tensor([0, 0, 0]), 1),
        r"with n at least 1, got \(0, 1, 2, 2\)": lambda: check_input(x[:0], y[:0], 1),
        r"got \(1, 2, 2\)": lambda: check_input(x[0], y, 1),
        "batch size 0 is too small": lambda: evaluate(Mean(), x, y, THREAT, batch_size=0),
        r"labels must lie in 0 to 1, the model's classes, found 0 to 2": lambda: evaluate(Mean(), x, torch.tensor([0, 2]), THREAT),
        r"found -1 to 0": lambda: evaluate(Mean(), x, torch.tensor([0, -1]), THREAT),
        r"does not read images .* \(3, 2, 2\): it expects \(1, 2, 2\)": lambda: evaluate(
            Mean(), x.expand(-1, 3, -1, -1), y, THREAT
        ),
        r"does not read images .* \(1, 2, 2\) \(mat1 and mat2": lambda: evaluate(
            nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), x, y, THREAT
        ),
        r"logits of shape \(2, classes\) .* got \(2, 1\)": lambda: evaluate(
            nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), x, y, THREAT
        ),
        r"got \(2, 1, 2, 2\)": lambda: evaluate(nn.Identity(), x, y, THREAT),
    }
    for match, action in refusals.items():
        with pytest.raises(BadInput, match=match):
            action()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="file is a file: name a folder"):
        run(tmp_path / "file")


def test_a_number_that_no_weight_shows_is_another_model() -> None:
    class Scaled(torch.nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale, self.layer = scale, torch.nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale * self.layer(x.flatten(1))  # type: ignore[no-any-return]

    x, y, threat = torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64), Threat(norm=2.0, eps=0.1)
    model = Scaled(1.0)
    first = records.facts(model, x, y, threat, 0, 4)["fingerprint"]
    assert records.facts(model.train(), x, y, threat, 0, 4)["fingerprint"] == first
    model.scale = 1e4
    assert records.facts(model, x, y, threat, 0, 4)["fingerprint"] != first
    model.scale = 1.0
    model.shift = torch.ones(1)
    assert records.facts(model, x, y, threat, 0, 4)["fingerprint"] != first
