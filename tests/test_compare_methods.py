"""The comparison of methods, end to end on tiny networks: what it leaves, that it is fair, and that nothing done is lost."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from kdiga import compare_methods as module
from kdiga import data, distill, models, pool, ranking
from kdiga.attacks import ATTACKS
from kdiga.cli import main
from kdiga.compare_methods import compare_methods
from kdiga.counting import Cost
from kdiga.errors import BadInput
from kdiga.feed import Feed
from kdiga.methods import methods
from kdiga.objectives import GIVEN, OBJECTIVES, needs_teacher
from kdiga.options import accepted
from kdiga.recipe import read, resolve, shipped
from kdiga.report import charts, plot
from kdiga.report import methods as report
from kdiga.report.rows import Row
from kdiga.stats import paired_seeds
from kdiga.types import Batch, Progress, Terms

SMALL = {"epochs": 1, "validation": 100, "validation_attacked": 10}
COMPARISONS = [name for name in shipped() if name.startswith("methods-")]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "teacher"
    distill.run(
        resolve({"objective": {"name": "pgd_at", "steps": 2}, "model": "cnn?width=8", "train": SMALL | {"epochs": 2}, "seed": 7}),
        out,
    )
    return out


def table(teacher: Path, **more: Any) -> dict[str, Any]:
    """A recipe with three methods."""
    small: dict[str, Any] = {
        "data": "digits",
        "teacher": str(teacher),
        "student": "cnn?width=4&act=silu",
        "seeds": [0, 1],
        "train": SMALL,
        "evaluate": {"n": 20, "attacks": ["fgsm", "pgd20"]},
        "methods": {"ce": {}, "kd": {"temperature": 2}, "kdiga-random": {"objective": "kdiga", "point": "random"}},
    }
    return small | more


def toml(path: Path, recipe: dict[str, Any]) -> Path:
    lines = [f"{k} = {json.dumps(v)}" for k, v in recipe.items() if not isinstance(v, dict)]
    sections = {k: v for k, v in recipe.items() if isinstance(v, dict) and k != "methods"}
    sections |= {f"methods.{k}": v for k, v in recipe["methods"].items()}
    for name, values in sections.items():
        lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in values.items())]
    path.write_text("\n".join(lines))
    return path


def run(*words: object) -> int:
    try:
        return main([str(w) for w in words])
    except SystemExit as exit_:
        return int(exit_.code or 0)


@pytest.fixture(scope="module")
def done(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison."""
    folder = tmp_path_factory.mktemp("done")
    assert run("compare-methods", toml(folder / "m.toml", table(teacher)), "--out", folder / "out", "--jobs", 1) == 0
    return folder / "out"


def rows(out: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((out / "methods.json").read_text())}


def weights(out: Path) -> dict[str, Tensor]:
    return {f"{p.parent.relative_to(out)}/{k}": v for p in out.rglob("model.safetensors") for k, v in load_file(p).items()}


def test_it_leaves_ordinary_runs_and_their_rows(done: Path, teacher: Path) -> None:
    expected = ["recipe.toml", "environment.json", "log.jsonl", "model.safetensors", "model.json", "checkpoint", "evaluation.json",
                "per_sample.safetensors"]  # fmt: skip
    assert [n for n in expected if not (done / "kdiga-random" / "seed-1" / n).exists()] == []
    found = json.loads((done / "results.json").read_text())
    assert [r["name"] for r in found] == ["teacher", *(f"{m}/seed-{s}" for m in ("ce", "kd", "kdiga-random") for s in (0, 1))]
    assert [r["role"] for r in found] == ["teacher", *["student"] * 6]
    assert {"parameters", "clean", "pgd20", "autoattack", "low", "high", "n", "seconds"} <= found[0].keys()
    assert found[-1]["objective"] == "kdiga"
    recipe = resolve(read(str(done / "kd" / "seed-1" / "recipe.toml")))
    assert (recipe.seed, recipe.options, recipe.teacher, recipe.train.epochs) == (1, {"temperature": 2.0}, str(teacher), 1)


def test_a_method_is_the_mean_of_its_runs(done: Path) -> None:
    results = {r["name"]: r for r in json.loads((done / "results.json").read_text())}
    for name, row in rows(done).items():
        own = [results[f"{name}/seed-{s}"] for s in (0, 1)]
        for key in ("clean", "pgd20"):
            assert row[key] == pytest.approx(fmean(r[key] for r in own))
            assert row[f"{key}_sd"] == pytest.approx(stdev(r[key] for r in own))
        assert row["seconds"] == pytest.approx(fmean(r["seconds"] for r in own), abs=1e-3)  # the median of two
        assert (row["autoattack"], row["ratio"], row["stopped"], row["seeds"]) == (None, None, [], [0, 1])
        assert row["parameters"] == own[0]["parameters"]
        assert row["steps"] == json.loads((done / name / "seed-0" / "log.jsonl").read_text().splitlines()[-1])["step"]
    keys = ("student_forwards", "student_backwards", "teacher_forwards", "teacher_backwards")
    counted = {name: tuple(row[k] for k in keys) for name, row in rows(done).items()}
    assert counted == {"ce": (1, 1, 0, 0), "kd": (1, 1, 1, 0), "kdiga-random": (1, 2, 1, 1)}
    assert rows(done)["ce"]["cost"] == pytest.approx(3, rel=0.05)


def test_rows_are_ranked_and_tested_against_the_next(done: Path) -> None:
    ranked = list(rows(done).values())
    assert [r["pgd20"] for r in ranked] == sorted((r["pgd20"] for r in ranked), reverse=True)  # no AutoAttack: PGD-20 decides
    outcomes = [
        torch.stack([load_file(done / r["name"] / f"seed-{s}" / "per_sample.safetensors")["pgd20"] != 0 for s in (0, 1)])
        for r in ranked
    ]
    assert [r["p"] for r in ranked] == [pytest.approx(paired_seeds(outcomes[0], outcomes[1])),
                                        pytest.approx(paired_seeds(outcomes[1], outcomes[2])), None]  # fmt: skip


def test_the_cosine_is_that_of_input_gradients_at_the_clean_test_images(done: Path, teacher: Path) -> None:
    test = data.sample(data.load("digits").test, 20)

    def gradient(folder: Path) -> Tensor:
        x = test.images().requires_grad_()
        nn.functional.cross_entropy(models.load(str(folder))(x), test.y, reduction="sum").backward()
        assert x.grad is not None
        return x.grad.flatten(1)

    for name, row in rows(done).items():
        own = [torch.cosine_similarity(gradient(done / name / f"seed-{s}"), gradient(teacher)).mean().item() for s in (0, 1)]
        assert row["cosine"] == pytest.approx(fmean(own), abs=1e-5)


def test_table_and_page_say_what_was_measured(done: Path, capsys: Capture) -> None:
    text = (done / "results.md").read_text()
    names = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")][2:]
    assert names == ["teacher", *(f"{n} (kdiga)" if n == "kdiga-random" else n for n in rows(done))]
    for said in ("linf eps 0.2, 20 test images, seeds 0, 1", "sign-flip", "PGD-20 accuracy against the row below", "not corrected"):
        assert said in text
    page = (done / "report.html").read_text()
    for said in (*rows(done), "Robustness and cost", "training time, log scale", "1 at a time"):
        assert said in page
    assert not re.search(r"https?://|<script", page)
    (done / "report.html").unlink()
    assert run("report", done) == 0
    assert (done / "report.html").read_text() == page
    shown = capsys.readouterr().out
    assert all(name in shown for name in rows(done))


def test_methods_of_one_seed_share_first_weights_and_data(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[tuple[str, int], tuple[Tensor, Tensor, Tensor]] = {}

    def fit(
        student: nn.Module, teacher: nn.Module | None, objective: Any, feed: Feed, *rest: Any, seed: int, out: Path, **more: Any
    ) -> Any:
        first = nn.utils.parameters_to_vector(student.parameters()).detach().clone()
        later = feed(feed.steps + 3)
        seen[out.parent.name, seed] = (first, later.row.clone(), later.x.clone())
        return student.eval(), 0.0

    monkeypatch.setattr(distill, "fit", fit)
    compare_methods(methods(table(teacher)), tmp_path / "out", jobs=1)
    assert len(seen) == 6
    for seed in (0, 1):
        one = seen["ce", seed]
        for name in ("kd", "kdiga-random"):
            assert all(torch.equal(a, b) for a, b in zip(one, seen[name, seed], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(seen["ce", 0], seen["ce", 1], strict=True))


def test_resume_goes_on_where_it_stopped_and_ends_as_if_it_had_not(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = table(teacher, train=SMALL | {"epochs": 2}, seeds=[0], methods={"ce": {}, "kd": {}, "last": {"objective": "ce"}})
    compare_methods(methods(recipe), tmp_path / "whole", jobs=1)

    def interrupts(what: str, at: int, of: int) -> None:
        if what.startswith("kd/seed-0: training, epoch 2") and at == of - 3:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        compare_methods(methods(recipe), out, jobs=1, progress=interrupts)
    assert (out / "kd" / "seed-0" / "checkpoint" / "last.safetensors").exists()
    assert not (out / "kd" / "seed-0" / "model.json").exists()
    assert not (out / "methods.json").exists()
    begun: dict[str, bool] = {}

    def spy(recipe: Any, own: Path, *, resume: bool, **more: Any) -> None:
        begun[own.parent.name] = resume
        distill.run(recipe, own, resume=resume, **more)

    monkeypatch.setattr(module, "run", spy)
    with pytest.raises(BadInput, match=r"exists: give --resume"):
        compare_methods(methods(recipe), out, jobs=1)
    compare_methods(methods(recipe), out, jobs=1, resume=True)
    assert begun == {"kd": True, "last": False}
    whole, resumed = weights(tmp_path / "whole"), weights(out)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(v, resumed[k]) for k, v in whole.items())

    def timeless(out: Path) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in rows(out).values()]

    assert timeless(out) == timeless(tmp_path / "whole")
    compare_methods(methods(recipe), out, jobs=1, resume=True)  # nothing is left to do
    assert len(begun) == 2


def test_resume_takes_new_methods_and_other_tests_but_no_other_training(done: Path, teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    one = table(teacher, methods={"ce": {}})
    compare_methods(methods(one, seeds=(0,)), out, jobs=1)
    with pytest.raises(BadInput, match=r"in ce/seed-0 train.lr differs: 0.1 then, 0.2 now; remove .*seed-0 to train it anew"):
        compare_methods(methods(one, seeds=(0,), sets=["lr=0.2"]), out, jobs=1, resume=True)
    before = (out / "ce" / "seed-0" / "model.safetensors").stat().st_mtime_ns
    more = methods(table(teacher, methods={"ce": {}, "kd": {}}), seeds=(0,), sets=["n=12"])
    compare_methods(more, out, jobs=1, resume=True)
    assert (out / "ce" / "seed-0" / "model.safetensors").stat().st_mtime_ns == before
    assert {r["n"] for r in json.loads((out / "results.json").read_text())} == {12}
    assert resolve(read(str(out / "ce" / "seed-0" / "recipe.toml"))).evaluate.n == 12
    assert set(rows(out)) == {"ce", "kd"}


def failing(after: float, error: Exception | None) -> Any:
    """Cross-entropy that raises `error`, or is not a number, when the share `after` of training is done."""

    def objective(student: nn.Module, teacher: nn.Module | None, batch: Batch, progress: float) -> Terms:
        terms = OBJECTIVES["kd"](student, student, batch, progress)
        if progress <= after or len(batch.y) == 2:  # two images: the dry call
            return terms
        if error is not None:
            raise error
        return {k: v * math.nan for k, v in terms.items()}

    return objective


def test_a_run_that_has_to_stop_is_measured_and_marked(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "ce", failing(0.94, None))
    recipe = table(teacher, train=SMALL | {"epochs": 2, "log_every": 5}, seeds=[3], methods={"kd": {}, "ce": {}})
    out = tmp_path / "out"
    compare_methods(methods(recipe), out, jobs=1)
    assert (rows(out)["ce"]["stopped"], rows(out)["ce"]["seeds"], rows(out)["kd"]["stopped"]) == ([3], [3], [])
    assert "not finite" in json.loads((out / "ce" / "seed-3" / "stopped.json").read_text())["reason"]
    text = (out / "results.md").read_text()
    assert "| ce † |" in text
    assert "training had to stop; what it left is counted: ce (seed 3)" in text
    monkeypatch.setattr(module, "run", None)  # what has stopped once is not run again
    compare_methods(methods(recipe), out, jobs=1, resume=True)
    assert rows(out)["ce"]["stopped"] == [3]


def test_a_run_that_stops_before_it_has_weights_has_no_row(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(OBJECTIVES, "ce", failing(0.5, None))
    recipe = toml(tmp_path / "m.toml", table(teacher, methods={"ce": {}, "kd": {}}, seeds=[0]))
    assert run("compare-methods", recipe, "--out", tmp_path / "out", "--jobs", 1) == 0
    assert set(rows(tmp_path / "out")) == {"kd"}
    assert run("compare-methods", recipe, "--only", "ce", "--out", tmp_path / "alone", "--jobs", 1) == 1
    assert "every run had to stop" in capsys.readouterr().err
    monkeypatch.setattr(module, "run", None)  # nor is it tried again
    assert run("compare-methods", recipe, "--resume", "--out", tmp_path / "out", "--jobs", 1) == 0
    assert set(rows(tmp_path / "out")) == {"kd"}


@pytest.mark.parametrize(("error", "code"), [(BadInput("a layer is missing"), 2), (RuntimeError("a bug"), None)])
def test_a_run_that_fails_costs_the_others_nothing(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, error: Exception, code: int | None
) -> None:
    monkeypatch.setitem(OBJECTIVES, "ce", failing(0.94, error))
    recipe = toml(tmp_path / "m.toml", table(teacher, seeds=[0], methods={"ce": {}, "kd": {}}, train=SMALL | {"epochs": 2}))
    words = ("compare-methods", recipe, "--out", tmp_path / "out", "--jobs", 1)
    if code is None:
        with pytest.raises(RuntimeError, match="a bug"):
            run(*words)
    else:
        assert run(*words) == code
        assert "ce/seed-0: a layer is missing (of 2 runs 1 failed; the others are kept" in capsys.readouterr().err
    assert set(rows(tmp_path / "out")) == {"kd"}


def test_only_seeds_and_set(teacher: Path, tmp_path: Path) -> None:
    recipe, out = toml(tmp_path / "m.toml", table(teacher)), tmp_path / "out"
    words = ("--only", "kd, ce", "--seeds", "4", "--set", "n=10", "--set", "lr=0.05")
    assert run("compare-methods", recipe, *words, "--out", out, "--jobs", 1) == 0
    assert [r["name"] for r in json.loads((out / "results.json").read_text())] == ["teacher", "ce/seed-4", "kd/seed-4"]
    made = resolve(read(str(out / "kd" / "seed-4" / "recipe.toml")))
    assert (made.train.lr, made.evaluate.n, made.seed) == (0.05, 10, 4)
    assert rows(out)["kd"]["clean_sd"] is None  # one seed has no deviation


def test_with_autoattack_it_is_autoattack_that_ranks(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for slow in ("apgd-t", "fab-t", "square"):
        monkeypatch.setitem(ATTACKS, slow, ATTACKS["fgsm"])
    recipe = table(teacher, methods={"kd": {}}, seeds=[0], evaluate={"n": 4, "attacks": ["autoattack"]}, threat={"eps": 0.02})
    compare_methods(methods(recipe), tmp_path / "out", jobs=1)
    (row,) = rows(tmp_path / "out").values()
    whole, own = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (row["autoattack"], row["pgd20"], row["p"]) == (own["autoattack"], None, None)
    assert whole["autoattack"] > 0
    assert row["ratio"] == pytest.approx(own["autoattack"] / whole["autoattack"])
    found, _, about = ranking.read_report(tmp_path / "out")
    assert about.judge == "autoattack"
    assert report.verdict(found, about).startswith("kd reaches")


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        ({"methods": {}}, {}, r"has a table \[methods.NAME\] for each method; this one has none"),
        ({"methods": {"kdgia": {}}}, {}, "method kdgia: unknown objective 'kdgia': did you mean 'kdiga'"),
        ({"methods": {"kd": {"iga_weight": 1}}}, {}, "method kd: .*iga_weight"),
        ({"methods": {"kd": {"temperature": "hot"}}}, {}, "method kd: .*float expected"),
        ({"methods": {"teacher": {"objective": "kd"}}}, {}, "'teacher' cannot be a method's name"),
        ({"methods": {"../kd": {"objective": "kd"}}}, {}, "cannot be a method's name"),
        ({"methods": {"results.json": {"objective": "kd"}}}, {}, "cannot be a method's name"),
        ({"methods": {"kd": {"seed": 3}}}, {}, "method kd: seed and objective"),
        ({"methods": {"kd": {}, "ce": {"data": "mnist"}}}, {}, "not compared alike: data is digits and mnist"),
        ({"methods": {"kd": {}, "ce": {"eps": 0.1}}}, {}, "not compared alike: threat"),
        ({"methods": {"kd": {}, "ce": {"n": 5}}}, {}, "not compared alike: evaluate"),
        ({"methods": {"kd": {}, "ce": {"validation": 50}}}, {}, "other images: validation is 100 and 50"),
        ({"objective": {"name": "kd"}}, {}, r"has no \[objective\]"),
        ({"seeds": [0, 0]}, {}, r"seeds are \[0, 0\]"),
        ({"seeds": ["a"]}, {}, "different whole numbers"),
        ({"seeds": []}, {}, "different whole numbers"),
        ({"seeds": [-1]}, {}, "seed is -1"),
        ({}, {"only": ("kdd",)}, "no method 'kdd': did you mean 'kd'"),
        ({}, {"sets": ["objective=kd"]}, "not for --set to change"),
        ({}, {"sets": ["seed=1"]}, "not for --set to change"),
        ({}, {"sets": ["iga_weight=1"]}, "method ce: there is no option 'iga_weight'"),
        ({"tain": {"epochs": 1}}, {}, "method ce: .*'epochs'"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, change: dict[str, Any], arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        methods(table(tmp_path) | change, **arguments)


def test_a_teacher_is_asked_for_where_one_is_needed(teacher: Path, tmp_path: Path) -> None:
    without = {k: v for k, v in table(teacher).items() if k != "teacher"}
    with pytest.raises(BadInput, match="method kd: objective kd needs a teacher that the recipe does not name"):
        methods(without)
    assert [m.name for m in methods(without, only=("ce",))] == ["ce"]


def test_bad_input_costs_nothing(done: Path, teacher: Path, tmp_path: Path, capsys: Capture) -> None:
    recipe, before = toml(tmp_path / "m.toml", table(teacher)), weights(done)
    gone = toml(tmp_path / "gone.toml", table(tmp_path / "nowhere"))
    untrained = toml(tmp_path / "untrained.toml", table(teacher) | {"teacher": "resnet-18"})
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    for said, *words in (
        ("exists: give --resume", recipe, "--out", done),
        ("nowhere", gone, "--out", done, "--overwrite"),
        ("nowhere", gone, "--out", done, "--overwrite", "--only", "ce"),  # which does not ask for the teacher, but the table does
        ("method ce: validation=5000 takes all", recipe, "--out", done, "--overwrite", "--set", "validation=5000"),
        ("method ce: .*more.npz", recipe, "--out", done, "--overwrite", "--set", f"extra={tmp_path / 'more.npz'}"),
        ("without trained weights", untrained, "--out", done, "--overwrite"),
        ("--jobs is 0", recipe, "--out", done, "--overwrite", "--jobs", 0),
        ("whole numbers: --seeds 0,1,2", recipe, "--out", done, "--overwrite", "--seeds", "x"),
        ("no method 'kdd'", recipe, "--out", done, "--overwrite", "--only", "kdd"),
        ("int expected", recipe, "--out", done, "--overwrite", "--set", "epochs=x"),
        ("unknown model", recipe, "--out", done, "--overwrite", "--set", "student=cnnn"),
        ("which --overwrite would empty", recipe, "--out", teacher.parent, "--overwrite"),
        ("not written by kdiga", recipe, "--out", mine, "--overwrite"),
        ("holds nothing to resume", recipe, "--out", mine, "--resume"),
        ("recipe 'methods-digit'.*methods-digits", "methods-digit", "--out", done),
    ):
        if said.startswith("which"):  # a folder of ours around the teacher
            (teacher.parent / "environment.json").write_text((done / "environment.json").read_text())
        assert run("compare-methods", *words) == 2, said
        err = capsys.readouterr().err
        assert re.search(said, err), err
        assert "Traceback" not in err
        assert len(err.splitlines()) == 1
    after = weights(done)
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert (done / "methods.json").exists()
    assert (mine / "thesis.tex").exists()


def test_processes_find_what_one_finds(done: Path, teacher: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    said: list[str] = []
    recipe = methods(table(teacher), only=("ce", "kd"), seeds=(1,))
    compare_methods(recipe, tmp_path / "one", jobs=1)
    compare_methods(recipe, tmp_path / "two", jobs=2, progress=lambda what, at, of: said.append(f"{what} {at}/{of}"))
    torch.set_num_threads(threads)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(torch.equal(v, two[k]) for k, v in one.items())
    assert any(s.startswith("kd/seed-1: training") for s in said)
    assert said[-1] == "runs 3/3"


def exits(how: str, *, progress: Progress) -> None:
    """A job for a process of the pool."""
    progress(how, 1, 1)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "refused":
        raise BadInput("no good")


def test_a_process_that_dies_is_one_failure() -> None:
    said: list[tuple[str, int, int]] = []
    failed = pool.each(exits, {how: (how,) for how in ("killed", "refused", "well")}, 2, lambda *what: said.append(what))
    assert set(failed) == {"killed", "refused"}
    assert isinstance(failed["refused"], BadInput)
    assert "code -9" in str(failed["killed"])
    assert ("well: well", 1, 1) in said


def test_control_c_lets_every_process_save_its_checkpoint(teacher: Path, tmp_path: Path) -> None:
    """One long epoch: a checkpoint can only be there because of the signal. Two processes, and none is left."""
    long = {"pgd_at": {"steps": 20}, "slow": {"objective": "pgd_at", "steps": 21}}
    recipe = table(teacher, methods=long, seeds=[0], train=SMALL | {"batch_size": 8, "log_every": 2})
    del recipe["teacher"]
    out = tmp_path / "out"
    words = ["compare-methods", str(toml(tmp_path / "m.toml", recipe)), "--out", str(out), "--jobs", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "kdiga.cli", *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until, logs = time.monotonic() + 120, [out / name / "seed-0" / "log.jsonl" for name in long]
    while not all(log.exists() for log in logs) and time.monotonic() < until:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everything in its foreground
    _, err = process.communicate(timeout=60)  # and that every process has closed its end of the pipe
    assert process.returncode == 130, err
    assert "--resume" in err
    assert "Traceback" not in err
    for log in logs:
        with safe_open(log.parent / "checkpoint" / "last.safetensors", framework="pt") as f:
            assert 2 <= json.loads(f.metadata()["kdiga"])["step"] < 100


def a_row(name: str, seconds: float, accuracy: float, **more: Any) -> report.MethodRow:
    given: dict[str, Any] = dict.fromkeys(
        ("pgd20", "pgd20_sd", "autoattack_sd", "ratio", "cosine", "steps", "p", "clean_sd"), None
    ) | {"objective": name, "seeds": (0,), "parameters": 10, "clean": 0.9, "flops": 1.0, "cost": 3.0, "stopped": ()}
    given |= dict.fromkeys(("student_forwards", "student_backwards", "teacher_forwards", "teacher_backwards"), 1.0)
    return report.MethodRow(**given | {"name": name, "seconds": seconds, "autoattack": accuracy} | more)


ABOUT = report.About(title="T", threat="linf eps 0.1", n=10, judge="autoattack", provenance={})


def test_the_chart_has_a_log_axis_and_the_teachers_line() -> None:
    made = [a_row("a", 10.0, 0.2), a_row("b", 20.0, 0.3, autoattack_sd=0.05), a_row("c", 40.0, 0.4)]
    chart = charts.cost(made, 0.5, ABOUT, plot.styles(["a", "b", "c"], []))
    assert chart is not None
    x, y = zip(*(m.at for m in chart.marks), strict=True)
    assert x[1] - x[0] == pytest.approx(x[2] - x[1])
    assert y[0] - y[1] == pytest.approx(y[1] - y[2])
    assert chart.level is not None
    assert chart.level[0] == pytest.approx(y[2] - (y[0] - y[1]))
    assert chart.marks[1].bar is not None
    assert chart.marks[1].bar[0] == pytest.approx((y[1] + y[2]) / 2)
    assert chart.marks[1].bar[1] == pytest.approx((y[0] + y[1]) / 2)
    assert [text for _, text in chart.x_ticks] == ["10 s", "20 s", "1 min"]
    assert charts.cost([a_row("a", 0.0, 0.1)], None, ABOUT, {}) is None


@pytest.mark.parametrize(("low", "high"), [(0.4, 0.4), (1.0, 1.0), (3.0, 5000.0), (0.002, 4e5), (59.0, 61.0), (1e9, 1e9)])
def test_time_ticks_rise_and_surround(low: float, high: float) -> None:
    found = plot.times(low, high)
    assert found == sorted(set(found))
    assert 2 <= len(found) <= 10
    assert found[0] <= low
    assert found[-1] >= high or high > 1e6


def test_verdict_of_methods() -> None:
    ahead = [a_row("b", 1.0, 0.4, ratio=0.8, p=0.0004), a_row("a", 1.0, 0.3)]
    assert (
        report.verdict(ahead, ABOUT)
        == "b reaches 40.0 % under AutoAttack, 80 % of the teacher's, ahead of a with 30.0 % (p < 0.001)."
    )
    close = [a_row("b", 1.0, 0.4, p=0.3), a_row("a", 1.0, 0.3)]
    assert report.verdict(close, ABOUT) == "b reaches 40.0 % under AutoAttack, not clearly ahead of a with 30.0 % (p = 0.30)."
    assert report.verdict([a_row("b", 1.0, 0.4), a_row("a", 1.0, 0.4)], ABOUT).endswith("and so does a.")
    assert report.verdict([], ABOUT) == "There is no result to report."


def test_a_methods_json_reads_back(tmp_path: Path) -> None:
    made = [a_row("b", 1.0, 0.4, seeds=(0, 2), stopped=(2,))]
    report.write(made, tmp_path / "methods.json")
    assert report.read(tmp_path / "methods.json") == made
    for text in ("{", "[1]", '[{"name": "b"}]'):
        (tmp_path / "methods.json").write_text(text)
        with pytest.raises(BadInput, match=r"not a methods\.json that kdiga wrote"):
            report.read(tmp_path / "methods.json")


def test_cosine_ratio_and_cost_of_a_method() -> None:
    def measured(accuracy: float, *gradient: tuple[float, float]) -> ranking.Measured:
        made = Row(name="m", parameters=1, clean=0.5, pgd20=None, autoattack=accuracy, low=None, high=None, n=2, seconds=2.0)
        return ranking.Measured(made, torch.ones(2, dtype=torch.bool), torch.tensor(gradient)[:, None, None, :], 7)

    teacher = measured(0.8, (1.0, 0.0), (0.0, 2.0))
    own = {0: measured(0.3, (3.0, 0.0), (0.0, -1.0)), 5: measured(0.5, (1.0, 1.0), (0.0, 0.0))}  # the last has no direction
    cost = Cost(student_forwards=1.0, student_backwards=2.0, teacher_forwards=0.0, teacher_backwards=0.0, flops=30.0)
    method = methods({"data": "digits", "methods": {"ce": {}}}, seeds=(0, 5))[0]
    row = ranking._summary(method, own, (5,), teacher, cost, 10.0)
    assert row.cosine == pytest.approx((1 - 1 + math.sqrt(0.5)) / 3)
    assert row.ratio == pytest.approx(0.5)
    assert (row.cost, row.steps, row.stopped, row.seeds) == (3.0, 7, (5,), (0, 5))
    assert row.autoattack_sd == pytest.approx(stdev([0.3, 0.5]))


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_shipped_comparison_resolves_and_says_how_it_is_run(name: str) -> None:
    text = shipped()[name].read_text()
    assert text.startswith("# ")
    assert f"kdiga compare-methods {name} --out " in text.partition("\n")[0]
    for method in methods(read(name)):
        assert list(method.runs) == [0, 1, 2]
        method.recipe.bound()
        shape = {"digits": (1, 8, 8), "fashion-mnist": (1, 28, 28)}[method.recipe.data]
        models.load(method.recipe.model, shape=shape, classes=10)
        assert method.recipe.teacher is not None or not needs_teacher(method.recipe.objective)
        assert accepted(method.recipe.function, hidden=GIVEN).keys() >= method.recipe.options.keys()
