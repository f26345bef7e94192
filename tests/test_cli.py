"""The command line as a person meets it: verbs that work, and one clear line with exit code 2 for what cannot."""

import errno
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from kdiga import compare as compare_module
from kdiga.attacks import autoattack
from kdiga.cli import main
from kdiga.compare import entries
from kdiga.contents import contents
from kdiga.evaluate.cost import Cost
from kdiga.folder import locked
from kdiga.objectives import OBJECTIVES
from kdiga.report import robustbench
from kdiga.types import Batch, Terms

SMALL = ["--set", "epochs=1", "--set", "validation=100", "--set", "validation_attacked=10"]
FEW = ["--set", "n=16", "--set", "attacks=fgsm,pgd20"]
Capture = pytest.CaptureFixture[str]


def run(*words: object) -> int:
    try:
        return main([str(w) for w in words])
    except SystemExit as exit_:  # argparse
        return int(exit_.code or 0)


def refused(capsys: Capture, said: str, *words: object) -> None:
    capsys.readouterr()
    assert run(*words) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not re.match(r".*: \d+ of \d+", line)]
    assert len(lines) == 1, err
    assert re.search(said, lines[0]), lines[0]
    assert "Traceback" not in err + out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher and a student, trained for an epoch."""
    folder = tmp_path_factory.mktemp("runs")
    assert run("teach", "--model", "cnn?width=6", "--set", "steps=2", "--out", folder / "teacher", *SMALL, *FEW) == 0
    words = ["--teacher", folder / "teacher", "--student", "cnn?width=4&act=silu", "--set", "point=random"]
    assert run("distill", *words, "--out", folder / "student", *SMALL, *FEW) == 0
    return folder


def test_a_run_leaves_what_the_readme_says(runs: Path) -> None:
    expected = ["recipe.toml", "environment.json", "log.jsonl", "model.safetensors", "model.json", "checkpoint", "evaluation.json",
                "per_sample.safetensors", "results.json", "report.html"]  # fmt: skip
    assert [name for name in expected if not (runs / "student" / name).exists()] == []
    (row,) = json.loads((runs / "student" / "results.json").read_text())
    assert {"name", "parameters", "clean", "pgd20", "autoattack", "low", "high", "n", "seconds"} <= row.keys()
    assert (row["n"], row["autoattack"], row["name"]) == (16, None, "student")
    environment = json.loads((runs / "student" / "environment.json").read_text())
    assert {"command", "revision", "versions", "device", "threads"} <= environment.keys()


def test_compare_and_report(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "c"
    words = ["compare", runs / "teacher", runs / "student", "--n", "12", "--attacks", "pgd20", "--out", out]
    assert run(*words) == 0
    shown = capsys.readouterr().out
    assert "teacher" in shown
    assert "student" in shown
    rows = json.loads((out / "results.json").read_text())
    assert [(r["name"], r["role"], r["n"]) for r in rows] == [("teacher", "teacher", 12), ("student", "student", 12)]
    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert run("report", out) == 0
    assert (out / "report.html").read_text() == page
    refused(capsys, "exists", *words)
    assert run(*words, "--overwrite") == 0
    assert json.loads((out / "results.json").read_text()) == rows


def test_the_verbs_that_print_a_table_agree_with_their_files(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run("evaluate", runs / "student", "--n", "20", "--attacks", "fgsm,pgd20", "--out", tmp_path / "e") == 0
    shown = capsys.readouterr().out
    (row,) = json.loads((tmp_path / "e" / "results.json").read_text())
    assert f"{100 * row['clean']:.1f}" in shown
    assert f"{100 * row['pgd20']:.1f}" in shown
    outcomes = load_file(tmp_path / "e" / "per_sample.safetensors")
    assert {"clean", "fgsm", "pgd20"} <= outcomes.keys()
    assert outcomes["pgd20"].float().mean().item() == pytest.approx(row["pgd20"])


def test_resume_goes_on_only_with_the_same_run(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "r"
    assert run("teach", "--objective", "ce", "--model", "cnn?width=4", "--out", out, *SMALL, "--no-evaluate") == 0
    before = load_file(out / "model.safetensors")
    refused(capsys, "exists.*--resume.*--overwrite", "teach", "--out", out, *SMALL)
    refused(capsys, r"train.epochs differs: 1 then, 2 now", "teach", "--out", out, "--resume", "--set", "epochs=2")
    refused(capsys, "give one of them", "teach", "--out", out, "--resume", "--overwrite")
    assert run("teach", "--out", out, "--resume", "--no-evaluate") == 0
    assert all(torch.equal(v, before[k]) for k, v in load_file(out / "model.safetensors").items())


def test_bad_input_is_one_line_and_loses_nothing(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "new"
    teach = ["teach", "--out", out, *SMALL]
    distill = ["distill", "--teacher", runs / "teacher", "--out", out, *SMALL]
    refused(capsys, "invalid choice: 'taech'", "taech")
    refused(capsys, "unknown objective 'kdgia': did you mean 'kdiga'", *distill, "--objective", "kdgia")
    refused(
        capsys,
        "no option 'iga_wieght': did you mean 'iga_weight'",
        *distill,
        "--set",
        "iga_wieght=1",
    )
    refused(capsys, "resnet-18", *teach, "--model", "resnet-81")
    refused(capsys, "digits", *teach, "--data", "digit")
    refused(capsys, "epochs is 'ten': int expected", *teach, "--set", "epochs=ten")
    refused(capsys, "8/255", *teach, "--eps", "8")
    refused(capsys, "8/255", "evaluate", runs / "teacher", "--eps", "8", "--out", out)
    refused(capsys, "images-idx3-ubyte", *teach, "--data", "fashion-mnist", "--root", tmp_path)
    refused(capsys, "unrecognized arguments: --epoch", *teach, "--epoch", "3")
    refused(capsys, "give --teacher", "distill", "--out", out)
    refused(capsys, "nowhere", "distill", "--teacher", tmp_path / "nowhere", "--out", out)
    refused(capsys, "pgd21.*pgd20", "evaluate", runs / "teacher", "--attacks", "pgd21", "--out", out)
    refused(capsys, "not available", *teach, "--set", "device=gpu9")
    refused(capsys, "recipe 'demo-kdgia'.*demo-kdiga", "teach", "demo-kdgia", "--out", out)
    refused(capsys, "no results.json", "report", tmp_path)
    refused(capsys, "validation=5000 takes all", *teach, "--set", "validation=5000")
    refused(capsys, "invalid choice: 'verbs'", "list", "verbs")
    refused(capsys, "without trained weights", "evaluate", "resnet-18", "--out", out)
    refused(capsys, "without trained weights", "distill", "--teacher", "timm:resnet18", "--out", out, *SMALL)
    refused(capsys, "l2 has no default eps", "evaluate", runs / "teacher", "--norm", "l2", "--out", out)
    refused(capsys, "named twice", "compare", runs / "teacher", runs / "teacher", "--out", out)
    refused(capsys, "seed is -1", *teach, "--seed", "-1")
    assert not out.exists()


def test_data_and_models_that_do_not_fit(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8), np.arange(40) % 10
    np.savez(tmp_path / "colour.npz", image=image, label=label)
    refused(
        capsys,
        r"teacher takes images of .*, .* was asked for",
        "evaluate",
        runs / "teacher",
        "--data",
        f"npz:{tmp_path / 'colour.npz'}",
        "--out",
        tmp_path / "o",
    )
    np.savez(tmp_path / "negative.npz", image=image, label=label - 3)
    refused(capsys, "label", "teach", "--data", f"npz:{tmp_path / 'negative.npz'}", "--out", tmp_path / "o")
    whole = (tmp_path / "colour.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(whole[: len(whole) // 2])
    refused(capsys, "short.npz", "teach", "--data", f"npz:{tmp_path / 'short.npz'}", "--out", tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_weights_from_strangers(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return os.mkdir, (str(marker),)

    torch.save({"state_dict": {"x": Evil()}}, tmp_path / "evil.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "noise.safetensors").write_bytes(b"\x00" * 64)
    for name, said in (("evil.pt", "evil.pt"), ("bare.pt", "bare.pt"), ("noise.safetensors", "noise.safetensors")):
        refused(capsys, said, "evaluate", f"{tmp_path / name}?arch=cnn", "--out", tmp_path / "o")
    assert not marker.exists()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.json").write_text("{}")
    refused(capsys, "model.json|broken", "evaluate", broken, "--out", tmp_path / "o")


def test_a_bad_flag_does_not_cost_the_old_run(runs: Path, capsys: Capture) -> None:
    before = (runs / "student" / "model.safetensors").read_bytes()
    words = ["distill", "--teacher", runs / "teacher", "--out", runs / "student", "--overwrite"]
    refused(capsys, "int expected", *words, "--set", "epochs=x")
    refused(capsys, "did you mean 'resnet-18'", *words, "--student", "resent-18")
    refused(capsys, "step size 9 is above the diameter", *words, "--objective", "pgd_at", "--set", "step_size=9")
    refused(capsys, "option steps is 0: it must be at least 1", *words, "--objective", "pgd_at", "--set", "steps=0")
    refused(capsys, "option temperature is 0: it must be above 0", *words, "--set", "temperature=0")
    refused(capsys, "not finite on the first two images", *words, "--set", "iga_weight=1e300")
    refused(
        capsys, "which --overwrite would empty", "distill", "--teacher", runs / "student", "--out", runs / "student", "--overwrite"
    )
    refused(capsys, "which --overwrite would empty", "evaluate", runs / "student", "--out", runs / "student", "--overwrite")
    assert (runs / "student" / "model.safetensors").read_bytes() == before


def test_a_folder_that_is_not_ours_is_not_overwritten(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    refused(capsys, "not written by kdiga", "teach", "--out", tmp_path, "--overwrite", *SMALL)
    refused(capsys, "is a file", "teach", "--out", tmp_path / "thesis.tex", *SMALL)
    (tmp_path / "results.json").write_text("[]")
    refused(capsys, "not written by kdiga", "evaluate", tmp_path / "x.pt?arch=cnn", "--out", tmp_path, "--overwrite")
    assert (tmp_path / "thesis.tex").exists()


def test_a_second_run_in_the_same_folder_stays_outside(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "busy"
    assert run("teach", "--objective", "ce", "--model", "cnn?width=4", "--out", out, "--no-evaluate", *SMALL) == 0
    with locked(out):
        refused(capsys, "another run is writing", "teach", "--out", out, "--resume", "--no-evaluate")


def test_an_evaluation_goes_on_only_with_what_it_began(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["evaluate", runs / "student", "--attacks", "fgsm", "--out", tmp_path / "e"]
    assert run(*words, "--n", "20") == 0
    before = load_file(tmp_path / "e" / "per_sample.safetensors")
    refused(capsys, "goes on with what .* began", *words, "--n", "30", "--resume")
    refused(capsys, "holds nothing to resume", "evaluate", runs / "student", "--out", tmp_path, "--resume")
    assert run(*words, "--n", "20", "--resume") == 0
    after = load_file(tmp_path / "e" / "per_sample.safetensors")
    assert after.keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in after.items())


def test_a_budget_chooses_the_images_before_and_keeps_them(
    runs: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of a second for each image and model, so it is said."""
    monkeypatch.setattr(compare_module, "cost", lambda *a, **k: Cost(low=0.001, high=0.1))
    words = ["evaluate", runs / "student", "--attacks", "fgsm", "--n", "100", "--out", tmp_path / "b"]
    assert run(*words, "--budget", "6s") == 0
    err = capsys.readouterr().err
    assert "Attacking 60 images takes 0.1 s if all break at once, 6.0 s if all withstand everything" in err
    assert re.search(r"^It took \d", err, re.M)
    (row,) = json.loads((tmp_path / "b" / "results.json").read_text())
    assert row["n"] == 60
    assert run(*words[:-1], tmp_path / "n", "--n", "60") == 0
    chosen, plain = (load_file(tmp_path / name / "per_sample.safetensors") for name in "bn")
    assert all(torch.equal(v, plain[k]) for k, v in chosen.items())
    monkeypatch.setattr(compare_module, "cost", lambda *a, **k: Cost(low=0.001, high=0.05))  # a quieter machine, later
    assert run(*words, "--budget", "6s", "--resume") == 0
    assert json.loads((tmp_path / "b" / "results.json").read_text())[0]["n"] == 60
    refused(capsys, "goes on with what .* began", *words, "--budget", "9s", "--resume")
    refused(capsys, "goes on with what .* began", *words, "--resume")
    pair = ["compare", runs / "student", runs / "teacher", "--attacks", "fgsm", "--budget", "6s"]
    assert run(*pair, "--out", tmp_path / "two") == 0
    assert [r["n"] for r in json.loads((tmp_path / "two" / "results.json").read_text())] == [60, 60]
    assert run(*words[:-1], tmp_path / "small", "--n", "30", "--budget", "1h") == 0
    assert json.loads((tmp_path / "small" / "results.json").read_text())[0]["n"] == 30


def test_a_budget_that_cannot_be_kept_or_read_is_one_line(
    runs: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_module, "cost", lambda *a, **k: Cost(low=0.001, high=2.0))
    words = ["evaluate", runs / "student", "--out", tmp_path / "b", "--budget"]
    refused(capsys, "60 seconds is too short: 50 images.* may take 100 seconds .*--budget 120s", *words, "1m")
    refused(capsys, "'soon' is no time: write 90s, 10m or 2h", *words, "soon")
    refused(capsys, "is no time", *words, "0")
    assert not (tmp_path / "b").exists()


def test_only_a_long_evaluation_says_what_it_takes(
    runs: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["evaluate", runs / "student", "--attacks", "fgsm", "--n", "20", "--out"]
    for high, said in ((1.0, False), (10.0, True)):
        monkeypatch.setattr(compare_module, "cost", lambda *a, high=high, **k: Cost(low=0.5, high=high))
        assert run(*words, tmp_path / str(said)) == 0
        assert ("10.0 s if all break at once, 3 min 20 s if all" in capsys.readouterr().err) is said


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """AutoAttack of a few steps and queries, in this process."""
    monkeypatch.setattr(autoattack, "STEPS", 4)
    monkeypatch.setattr(autoattack, "QUERIES", 10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


@pytest.mark.usefixtures("short")
def test_neighbours_are_tested_in_every_output(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "c"
    words = ["compare", runs / "teacher", runs / "student", "--n", "12", "--attacks", "autoattack", "--out", out]
    assert run(*words) == 0
    shown = capsys.readouterr().out
    (pair,) = json.loads((out / "report.json").read_text())["pairs"]
    robust = {r["name"]: r["autoattack"] for r in json.loads((out / "results.json").read_text())}
    assert (pair["only_first"] - pair["only_second"]) / 12 == pytest.approx(robust[pair["first"]] - robust[pair["second"]])
    assert pair["only_first"] >= pair["only_second"]
    for text in (shown, (out / "results.md").read_text(), (out / "report.html").read_text()):
        assert "the same 12 images" in text
    facts = json.loads((out / "report.json").read_text())
    del facts["pairs"]  # as an older comparison left it
    (out / "report.json").write_text(json.dumps(facts))
    assert run("report", out) == 0
    assert "the same 12 images" not in capsys.readouterr().out + (out / "report.html").read_text()


@pytest.mark.usefixtures("short")
def test_all_test_images_leave_an_entry_for_robustbench_and_fewer_say_why_not(
    runs: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(robustbench.BOARDS, ("digits", inf), "0.2")
    monkeypatch.setattr(robustbench, "IMAGES", 12)
    words = ["evaluate", runs / "student", "--attacks", "autoattack", "--out"]
    assert run(*words, tmp_path / "few", "--n", "11") == 0
    assert "No RobustBench entry: it takes all 12 test images, 11 were attacked (--n 12)." in capsys.readouterr().out
    assert not (tmp_path / "few" / "robustbench").exists()
    assert run(*words, tmp_path / "all", "--n", "12") == 0
    assert "No RobustBench" not in capsys.readouterr().out
    said = json.loads((tmp_path / "all" / "robustbench" / "student.json").read_text())
    (row,) = json.loads((tmp_path / "all" / "results.json").read_text())
    assert (said["clean_acc"], said["autoattack_acc"]) == (f"{100 * row['clean']:.2f}", f"{100 * row['autoattack']:.2f}")


def test_models_with_one_name_are_told_apart(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "student", tmp_path / "a" / "m")
    shutil.copytree(runs / "teacher", tmp_path / "b" / "m")
    assert [e.name for e in entries([str(tmp_path / "a" / "m"), str(tmp_path / "b" / "m")])] == ["a-m", "b-m"]
    weights = tmp_path / "a" / "m" / "model.safetensors"
    assert [e.name[-2:] for e in entries([f"{weights}?arch=cnn&weights={w}" for w in "xy"])] == ["-1", "-2"]


def test_workers_find_what_one_process_finds(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["compare", runs / "teacher", runs / "student", "--n", "16", "--attacks", "pgd20", "--out"]
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert run(*words, tmp_path / str(threads)) == 0
    one, two = (json.loads((tmp_path / t / "results.json").read_text()) for t in "12")
    assert one == two


def test_a_run_that_had_to_stop_leaves_its_last_good_weights(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(student: nn.Module, teacher: nn.Module | None, batch: Batch, progress: float) -> Terms:
        terms = OBJECTIVES["kd"](student, student, batch, progress)
        return {**terms, "kd": terms["kd"] * (float("nan") if 0.6 < progress < 0.9 else 1.0)}  # not in the dry call

    monkeypatch.setitem(OBJECTIVES, "ce", breaks)
    out = tmp_path / "run"
    assert run("teach", "--objective", "ce", "--model", "cnn?width=4", "--out", out, *SMALL, "--set", "epochs=2") == 1
    assert "not finite" in capsys.readouterr().err
    kept, saved = load_file(out / "model.safetensors"), load_file(out / "checkpoint" / "last.safetensors")
    assert all(torch.equal(v, saved[f"student/{k}"]) for k, v in kept.items())


def test_places_that_cannot_be_written(capsys: Capture) -> None:
    refused(capsys, "/proc", "teach", "--out", "/proc/kdiga", *SMALL)


def test_a_full_disk_is_said_and_the_checkpoint_survives(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    out, fsync, calls = tmp_path / "full", os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 3:  # environment, recipe and the first epoch's checkpoint fit
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    words = ["teach", "--objective", "ce", "--model", "cnn?width=4", "--out", out, "--no-evaluate", "--set", "epochs=2",
             "--set", "validation=100", "--set", "validation_attacked=0"]  # fmt: skip
    refused(capsys, "No space left on device", *words)
    monkeypatch.undo()
    assert [p.name for p in (out / "checkpoint").iterdir()] == ["last.safetensors"]  # no half-written file beside it
    assert run("teach", "--out", out, "--resume", "--no-evaluate") == 0


def test_control_c_writes_the_checkpoint_and_exits_with_130(tmp_path: Path) -> None:
    """One long epoch: a checkpoint can only be there because of the signal."""
    out = tmp_path / "run"
    words = [
        "teach",
        "--objective",
        "pgd_at",
        "--out",
        str(out),
        "--set",
        "steps=50",
        "--set",
        "batch_size=8",
        "--set",
        "log_every=2",
    ]
    process = subprocess.Popen([sys.executable, "-m", "kdiga.cli", *words, "--no-evaluate"], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not (out / "log.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in err
    assert "Traceback" not in err
    with safe_open(out / "checkpoint" / "last.safetensors", framework="pt") as f:
        assert 2 <= json.loads(f.metadata()["kdiga"])["step"] < 117


def test_help_is_there_for_every_verb(capsys: Capture) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    verbs = ["demo", "teach", "distill", "evaluate", "compare", "compare-methods", "report", "list"]
    assert all(verb in text for verb in verbs)
    for verb in verbs:
        assert run(verb, "--help") == 0
        assert len(capsys.readouterr().out) > 200


@pytest.mark.parametrize("kind", ["objectives", "attacks", "models", "datasets", "recipes"])
def test_list_names_everything_with_a_line_each(kind: str, capsys: Capture) -> None:
    assert run("list", kind) == 0
    shown = capsys.readouterr().out
    for name, line in contents(kind).items():
        assert name in shown
        assert len(line) > 10, f"{name} has no description"


def test_a_folder_is_named_by_its_own_name(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "results.json").write_text("kept")
    refused(
        capsys,
        r"leads through '\.\.'",
        "evaluate",
        runs / "student",
        "--n",
        "8",
        "--attacks",
        "fgsm",
        "--out",
        tmp_path / "mine" / "new" / "..",
    )
    assert (tmp_path / "mine" / "results.json").read_text() == "kept"


def test_what_health_found_stays_when_the_evaluation_is_resumed_without_it(runs: Path, tmp_path: Path) -> None:
    words = ["evaluate", runs / "student", "--n", "30", "--attacks", "fgsm,pgd20", "--out", tmp_path / "h"]
    assert run(*words, "--health") == 0
    before = json.loads((tmp_path / "h" / "health.json").read_text())
    assert run(*words, "--resume") == 0
    assert json.loads((tmp_path / "h" / "health.json").read_text()) == before


def test_damaged_files_of_a_run_are_one_line(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["evaluate", runs / "student", "--n", "8", "--attacks", "fgsm", "--out", tmp_path / "d"]
    assert run(*words) == 0
    (tmp_path / "d" / "asked.json").write_bytes(b"\xff\xfe")
    refused(capsys, "began, which was", *words, "--resume")
    (tmp_path / "d" / "asked.json").write_text('{"images": Infinity}')
    refused(capsys, "began, which was", *words, "--resume")
    shutil.copytree(runs / "student", tmp_path / "broken")
    with (tmp_path / "broken" / "log.jsonl").open("a") as log:
        log.write("3\n")
    refused(capsys, "its recipe or log is damaged", "evaluate", tmp_path / "broken", "--n", "8", "--out", tmp_path / "e")
    refused(capsys, "device 'meta' is not available", "evaluate", runs / "student", "--device", "meta", "--out", tmp_path / "f")
