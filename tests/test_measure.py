"""`kdiga measure`: what it leaves, that its summaries are what the numbers say, and that nothing is measured twice or for the wrong model."""

import json
import re
from math import inf, log
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdiga import data, measure, models, pool
from kdiga.cli import main
from kdiga.compare import entry
from kdiga.contents import about, contents
from kdiga.errors import BadInput
from kdiga.evaluate import evaluate
from kdiga.measures import MEASURES
from kdiga.measures.readings import READINGS, stated
from kdiga.options import accepted
from kdiga.report import measures as report
from kdiga.report.rows import Row
from kdiga.types import Images, Labels, PerSample, Threat

LINF = Threat(norm=inf, eps=0.1)
SMALL = ["--set", "epochs=1", "--set", "validation=100", "--set", "validation_attacked=0", "--no-evaluate"]
QUICK = "local-linearity,gradient-cosine,transfer-slack"
FAST = [
    "--set",
    "local-linearity.steps=3",
    "--set",
    "transfer-slack.steps=3",
    "--set",
    "restarts=1",
    "--attacks",
    "pgd20",
    "--n",
    "24",
]
Capture = pytest.CaptureFixture[str]


def run(*words: object) -> int:
    try:
        return main([str(w) for w in words])
    except SystemExit as exit_:
        return int(exit_.code or 0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert run("teach", "--model", "cnn?width=6", "--set", "steps=2", "--out", folder / "teacher", *SMALL) == 0
    student = ["--teacher", folder / "teacher", "--student", "cnn?width=4&act=silu"]
    for objective in ("kd", "ce"):
        assert run("distill", *student, "--objective", objective, "--out", folder / objective, *SMALL) == 0
    return folder


@pytest.fixture
def measured(runs: Path, tmp_path: Path) -> Path:
    out = tmp_path / "m"
    words = ["measure", runs / "teacher", runs / "kd", runs / "ce", "--measures", QUICK, *FAST, "--out", out]
    assert run(*words) == 0
    return out


def test_one_table_one_page_and_the_numbers(measured: Path, runs: Path, capsys: Capture) -> None:
    rows = json.loads((measured / "results.json").read_text())
    assert [(r["name"], r["role"], r["n"]) for r in rows] == [
        ("teacher", "teacher", 24),
        ("kd", "student", 24),
        ("ce", "student", 24),
    ]
    found, agreement, _, said = measure.read_report(measured)
    assert {(s.model, s.measure) for s in found} == {(m, "local-linearity") for m in ("teacher", "kd", "ce")} | {
        (m, name) for m in ("kd", "ce") for name in ("gradient-cosine", "transfer-slack")
    }, "the teacher is not compared with itself"
    assert said.teacher == str(runs / "teacher")
    assert said.measures["local-linearity"] == {"steps": 3, "restarts": 1}
    assert {a.measure: a.models for a in agreement} == {"local-linearity": 3, "gradient-cosine": 2, "transfer-slack": 2}
    for s in found:
        values = load_file(measured / s.model / "measures.safetensors")[s.measure]
        assert values.shape == (24,)
        assert s.mean == pytest.approx(values.double().mean().item())
    page = (measured / "report.html").read_text()
    (measured / "report.html").unlink()
    capsys.readouterr()
    assert run("report", measured) == 0
    shown = capsys.readouterr().out
    assert (measured / "report.html").read_text() == page
    assert page.count('<svg class="chart"') == 3
    for name in QUICK.split(","):
        assert name in shown
        assert f"| {name} " in (measured / "results.md").read_text()
    assert not re.search(r"<script|https?://(?!arxiv)", page)


def test_the_numbers_are_the_measures_on_these_images(measured: Path, runs: Path) -> None:
    dataset = data.load("digits", None)
    test, student, teacher = data.sample(dataset.test, 24), _load(runs / "kd"), _load(runs / "teacher")
    expected = MEASURES["gradient-cosine"](student, test.images(), test.y, Threat.parse("linf", "0.2"), teacher=teacher)
    assert torch.allclose(load_file(measured / "kd" / "measures.safetensors")["gradient-cosine"], expected, atol=1e-6)


def _load(path: Path) -> models.Classifier:
    dataset = data.load("digits", None)
    return models.load(str(path), shape=dataset.shape, classes=10, mean=dataset.mean, std=dataset.std).eval()


def test_resume_measures_only_what_is_missing_or_was_of_something_else(
    measured: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "each", _here)
    asked: list[str] = []

    def counted(name: str) -> None:
        original = MEASURES[name]

        def spy(model: torch.nn.Module, x: Images, y: Labels, threat: Threat, *, steps: int = 50, restarts: int = 5) -> PerSample:
            asked.append(name)
            return original(model, x, y, threat, steps=steps, restarts=restarts)

        monkeypatch.setitem(MEASURES, name, spy)

    counted("local-linearity")
    names = [runs / "teacher", runs / "kd", runs / "ce"]
    assert run("measure", *names, "--measures", QUICK, *FAST, "--out", measured, "--resume") == 0
    assert asked == []
    assert (
        run("measure", *names, "--measures", QUICK, *FAST, "--set", "local-linearity.steps=4", "--out", measured, "--resume") == 0
    )
    assert asked == ["local-linearity"] * 3  # another option, another number
    values = load_file(measured / "kd" / "measures.safetensors")
    save_file(values, measured / "kd" / "measures.safetensors", metadata=dict.fromkeys(values, "of something else"))
    asked.clear()
    assert (
        run("measure", *names, "--measures", QUICK, *FAST, "--set", "local-linearity.steps=4", "--out", measured, "--resume") == 0
    )
    assert asked == ["local-linearity"]


def _here(work: pool.Work, jobs: pool.Jobs, processes: int, progress: object) -> dict[str, Exception]:
    for arguments in jobs.values():
        work(*arguments, progress=lambda *said: None)
    return {}


def test_what_cannot_be_measured_is_one_line(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    def refused(said: str, *words: object) -> None:
        capsys.readouterr()
        assert run("measure", *words, "--out", tmp_path / "no") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(said, line), line
        assert not (tmp_path / "no").exists()

    refused("no measure 'linearity'.*local-linearity", runs / "kd", "--measures", "linearity")
    refused("has an option 'sigam'", runs / "kd", "--measures", "local-linearity", "--set", "sigam=1")
    refused("has an option 'clever.steps'", runs / "kd", "--measures", "local-linearity", "--set", "clever.steps=1")
    refused("steps is 0: it must be at least 1", runs / "kd", "--measures", "local-linearity", "--set", "steps=0")
    refused(
        "compares with a teacher, and no model's recipe names one: give --teacher",
        runs / "teacher",
        "--measures",
        "gradient-cosine",
    )
    refused("has no trained weights|untrained|weights", runs / "kd", "--measures", "gradient-cosine", "--teacher", "cnn")
    refused("is named twice", runs / "kd", runs / "kd")


def test_an_option_goes_to_every_measure_that_has_it_or_to_one() -> None:
    found = measure.asked(("local-linearity", "linear-bound", "clever"), {"restarts": 2, "clever.samples": 3}, None, []).measures
    assert found == {"local-linearity": {"restarts": 2}, "linear-bound": {"restarts": 2}, "clever": {"samples": 3}}


def test_the_teacher_is_the_one_that_the_recipes_name(runs: Path) -> None:
    kd, ce = entry("kd", str(runs / "kd")), entry("ce", str(runs / "ce"))
    assert measure.asked(("gradient-l2",), {}, None, [kd, ce]).teacher == str(runs / "teacher")
    assert measure.asked(("local-linearity",), {}, None, [kd]).teacher is None
    with pytest.raises(BadInput, match="no model's recipe names one"):
        measure.asked(("gradient-l2",), {}, None, [])


def test_every_measure_has_a_reading_and_is_listed() -> None:
    assert READINGS.keys() == MEASURES.keys() == contents("measures").keys()
    for name, function in MEASURES.items():
        assert contents("measures")[name]
        options = [o for o in accepted(function) if o != "teacher"]
        assert all(re.search(rf"^  {option} ", about(name, "measures"), re.M) for option in options)


def test_what_a_measure_states_of_an_image() -> None:
    below, above = torch.tensor([log(2) - 0.01]), torch.tensor([log(2) + 0.01])
    assert stated("linear-bound", torch.cat([below, above]), LINF, {}).tolist() == [True, False]  # type: ignore[union-attr]
    assert stated("linear-bound", torch.tensor([-0.1, 0.1]), LINF, {"loss": "margin"}).tolist() == [True, False]  # type: ignore[union-attr]
    assert stated("transfer-slack", torch.tensor([-0.1, 0.1]), LINF, {}).tolist() == [False, True]  # type: ignore[union-attr]
    assert stated("clever", torch.tensor([0.09, 0.11]), LINF, {}).tolist() == [False, True]  # type: ignore[union-attr]
    assert stated("ibp-margin", torch.tensor([0.0, 1.0]), LINF, {}).tolist() == [False, True]  # type: ignore[union-attr]
    assert stated("local-linearity", torch.tensor([0.0]), LINF, {}) is None


def seen(name: str, robust: list[int], **values: list[float]) -> report.Seen:
    share = sum(robust) / len(robust)
    row = Row(name=name, parameters=1, clean=1.0, pgd20=None, autoattack=share, low=0.0, high=1.0, n=len(robust), seconds=None)
    numbers = {k.replace("_", "-"): torch.tensor(v) for k, v in values.items()}
    return report.Seen(row, torch.tensor(robust).bool(), numbers)


def test_summaries_by_hand() -> None:
    one = seen(
        "a",
        [1, 1, 0, 0],
        transfer_slack=[2.0, -1.0, 1.0, -2.0],
        smoothing_radius=[0.5, 0.0, 0.25, 0.25],
        local_linearity=[1.0, 2.0, 3.0, 4.0],
    )
    found = {
        s.measure: s
        for s in report.summarise({"a": one}, LINF, {"transfer-slack": {}, "smoothing-radius": {}, "local-linearity": {}})
    }
    slack, radius, gamma = found["transfer-slack"], found["smoothing-radius"], found["local-linearity"]
    assert (slack.share, slack.stated, slack.contradicted) == (0.5, 2, 1)
    assert slack.auc == 0.75  # 2 above both, -1 above one of the two
    assert (gamma.share, gamma.mean, gamma.auc) == (None, 2.5, 1.0)  # less is better
    assert radius.mean == 0.25
    assert radius.curve is not None
    assert radius.curve[0] == (0.0, 0.75)  # a radius of 0 certifies nothing
    assert radius.curve[-1][1] == 0.0


def test_agreement_over_models_is_signed_by_what_theory_expects() -> None:
    models_ = {
        str(k): seen(
            str(k), [1] * k + [0] * (6 - k), local_linearity=[6.0 - k] * 6, gradient_cosine=[k / 10] * 6, transfer_slack=[1.0] * 6
        )
        for k in range(1, 6)
    }
    found = report.summarise(models_, LINF, {"local-linearity": {}, "gradient-cosine": {}, "transfer-slack": {}})
    by = {a.measure: a for a in report.agreements(found, [m.row for m in models_.values()], "autoattack")}
    assert by["local-linearity"].rho == pytest.approx(1.0)
    assert by["gradient-cosine"].rho == pytest.approx(1.0)
    assert (by["transfer-slack"].stated, by["transfer-slack"].contradicted) == (30, 15)
    few = report.agreements([s for s in found if s.model in "12"], [m.row for m in models_.values()], "autoattack")
    assert {(a.models, a.rho) for a in few} == {(2, None)}


def test_a_run_folder_is_evaluated_once(runs: Path, tmp_path: Path) -> None:
    """The attacks' outcomes of a measurement are those of `evaluate` with the same settings."""
    out = tmp_path / "once"
    assert (
        run(
            "measure",
            runs / "kd",
            "--measures",
            "local-linearity",
            *FAST[:2],
            "--set",
            "restarts=1",
            "--attacks",
            "pgd20",
            "--n",
            "24",
            "--out",
            out,
        )
        == 0
    )
    test = data.sample(data.load("digits", None).test, 24)
    again = evaluate(_load(runs / "kd"), test.images(), test.y, Threat.parse("linf", "0.2"), attacks=("pgd20",))
    assert load_file(out / "kd" / "per_sample.safetensors")["pgd20"].bool().tolist() == again.robust["pgd20"].tolist()
