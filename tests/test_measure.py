"""`kdiga measure`: what it leaves, that its summaries are what the numbers say, and that nothing is measured twice or for the wrong model."""

import json
import re
from dataclasses import replace
from math import inf, log
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdiga import data, measure, models, pool, recipe
from kdiga.cli import main
from kdiga.compare import entries, entry
from kdiga.contents import about, contents
from kdiga.errors import BadInput
from kdiga.evaluate import evaluate
from kdiga.folder import locked
from kdiga.measured import Job, _digests
from kdiga.measures import MEASURES
from kdiga.measures.readings import READINGS, stated
from kdiga.options import accepted
from kdiga.report import charts
from kdiga.report import measures as report
from kdiga.report.rows import Row
from kdiga.types import Images, Labels, PerSample, Threat

FITS = {"shape": (1, 8, 8), "classes": 10, "mean": (0.3,), "std": (0.4,)}
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
            if len(x) > 2:  # not the trial
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


def test_measures_that_are_not_asked_for_again_are_kept(measured: Path, runs: Path) -> None:
    before = load_file(measured / "kd" / "measures.safetensors")
    assert run("measure", runs / "kd", "--measures", "ibp-margin", *FAST[-4:], "--out", measured, "--resume") == 0
    after = load_file(measured / "kd" / "measures.safetensors")
    assert after.keys() == before.keys() | {"ibp-margin"}
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert [s.measure for s in measure.read_report(measured)[0]] == ["ibp-margin"]


def test_another_batch_size_is_another_measurement(runs: Path, tmp_path: Path) -> None:
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    job = Job(str(runs / "kd"), None, {"clever": {}}, FITS, LINF, recipe.Testing(attack_batch=4), torch.device("cpu"))
    model, _ = job.load()
    assert _digests(job, model, None, x, y) != _digests(replace(job, testing=recipe.Testing(attack_batch=2)), model, None, x, y)


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
    refused("named twice", runs / "kd", runs / "kd")


def test_what_cannot_be_measured_of_anything_is_known_before_the_folder_is_emptied(
    runs: Path, measured: Path, capsys: Capture
) -> None:
    def refused(said: str, *words: object) -> None:
        capsys.readouterr()
        assert run("measure", *words, "--out", measured, "--n", "24") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(said, line), line
        assert (measured / "kd" / "measures.safetensors").exists()

    over = ["--overwrite", "--attacks", "pgd20"]
    refused("ibp-margin is not measured of kd: .*l2", runs / "kd", "--measures", "ibp-margin", "--norm", "l2", "--eps", "1", *over)
    refused("crown-ibp-margin is not measured of kd: .*silu", runs / "kd", "--measures", "crown-ibp-margin", *over)
    refused("--attacks must have autoattack or pgd20", runs / "kd", "--overwrite", "--attacks", "fgsm,pgd100")
    refused("began, which was", runs / "kd", "--resume", "--attacks", "pgd20", "--eps", "0.1")
    with locked(measured):
        refused("another run is writing", runs / "kd", "--measures", "local-linearity", *over)


def test_a_measure_that_one_model_does_not_have_is_a_dash_and_a_line(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "a[/b]"  # a name that is no markup
    words = ["--measures", "crown-ibp-margin", "--attacks", "pgd20", "--n", "24", "--out", out]
    assert run("measure", runs / "teacher", runs / "kd", *words) == 0
    shown = capsys.readouterr()
    assert "crown-ibp-margin is not measured of kd" in shown.err
    assert str(out) in shown.out
    found, _, rows, about = measure.read_report(out)
    assert ([s.model for s in found], [r.name for r in rows]) == (["teacher"], ["teacher", "kd"])
    assert "not measured of kd" in about.refused[0]
    assert "not measured of kd" in (out / "report.html").read_text()


def test_a_comparison_is_not_resumed_as_a_measurement(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "c"
    assert run("compare", runs / "kd", runs / "ce", "--attacks", "pgd20", "--n", "12", "--out", out) == 0
    page = (out / "report.html").read_text()
    assert run("measure", runs / "kd", "--measures", "clever", "--attacks", "pgd20", "--n", "12", "--out", out, "--resume") == 2
    assert (out / "report.html").read_text() == page


def test_a_damaged_measurement_is_one_line(measured: Path, capsys: Capture) -> None:
    whole = json.loads((measured / "measures.json").read_text())
    for wrong in ({"judge": "foo"}, {"measures": None}, {"measures": {"x": 3}}):
        (measured / "measures.json").write_text(json.dumps(whole | {"about": whole["about"] | wrong}))
        capsys.readouterr()
        assert run("report", measured) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    (measured / "measures.json").write_text(json.dumps(whole))
    (measured / "results.json").write_text("[]")
    assert run("report", measured) == 2


def test_numbers_that_are_not_finite_are_dashes() -> None:
    good = seen("a", [1, 0], local_linearity=[1.0, 2.0])
    bad = seen("b", [1, 0], local_linearity=[inf, float("nan")])
    rows = [good.row, bad.row, seen("c", [1, 1]).row]
    found = report.summarise({"a": good, "b": bad}, LINF, {"local-linearity": {}})
    assert [(s.mean, s.auc) for s in found] == [(1.5, 1.0), (None, None)]
    (agreement,) = report.agreements(found, rows, "autoattack")
    assert (agreement.models, agreement.rho) == (1, None)
    assert report.lines(found, rows)[1][1][-1] == "–"
    assert charts.foretold("local-linearity", found, rows, "autoattack", {}) is None


def test_the_same_model_twice_is_refused_however_it_is_written(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    with pytest.raises(BadInput, match="named twice"):
        entries(["kd", "./kd"])
    assert len(entries(["kd/model.safetensors?arch=cnn&width=4&act=silu", "kd/model.safetensors?arch=cnn&width=4"])) == 2


def test_an_option_goes_to_every_measure_that_has_it_or_to_one() -> None:
    found = measure.asked(("local-linearity", "linear-bound", "clever"), {"restarts": 2, "clever.samples": 3}, None, []).measures
    assert found == {"local-linearity": {"restarts": 2}, "linear-bound": {"restarts": 2}, "clever": {"samples": 3}}


def test_the_teacher_is_the_one_that_the_recipes_name(runs: Path) -> None:
    kd, ce = entry("kd", str(runs / "kd")), entry("ce", str(runs / "ce"))
    assert measure.asked(("gradient-l2",), {}, None, [kd, ce]).teacher == str(runs / "teacher")
    assert measure.asked(("local-linearity",), {}, None, [kd]).teacher is None
    with pytest.raises(BadInput, match="no model's recipe names one"):
        measure.asked(("gradient-l2",), {}, None, [])
    gone = replace(kd, recipe={"teacher": "/nowhere/teacher"})
    with pytest.raises(BadInput, match="/nowhere/teacher, the teacher that the models' recipes name, is not there any more"):
        measure.asked(("gradient-l2",), {}, None, [gone])
    with pytest.raises(BadInput, match="name 2 teachers"):
        measure.asked(("gradient-l2",), {}, None, [kd, gone])


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
        [1, 1, 0, 0, 0],
        transfer_slack=[2.0, -1.0, 1.0, 0.5, -2.0],
        smoothing_radius=[0.5, 0.0, 0.25, 0.25, 0.25],
        local_linearity=[1.0, 2.0, 3.0, 4.0, 5.0],
    )
    found = {
        s.measure: s
        for s in report.summarise({"a": one}, LINF, {"transfer-slack": {}, "smoothing-radius": {}, "local-linearity": {}})
    }
    slack, radius, gamma = found["transfer-slack"], found["smoothing-radius"], found["local-linearity"]
    assert slack.share == pytest.approx(0.6)
    assert (slack.stated, slack.contradicted) == (3, 2)
    assert report.shown(slack) == "60.0 %, 2 broken"
    assert slack.auc == pytest.approx(4 / 6)  # 2 above all three, -1 above one of them
    assert (gamma.share, gamma.mean, gamma.auc) == (None, 3.0, 1.0)  # less is better
    assert radius.mean == 0.25
    assert radius.curve is not None
    assert radius.curve[0] == pytest.approx((0.0, 0.8))  # a radius of 0 certifies nothing
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
