"""Flags as a person meets them: in the terminal, in Markdown, on the page, and in the files that they are drawn from."""

import json
import re
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from test_report_page import HOSTILE, Checker, a_page, row

from kdiga import compare as compare_module
from kdiga.cli import main
from kdiga.errors import BadInput
from kdiga.health import ASK, CHECKS, Flag, write
from kdiga.health.flag import unchecked
from kdiga.models.cnn import cnn
from kdiga.report import health
from kdiga.report.rows import read_results

TWO_OPEN = ("transfer", "iterations")


def flags(*bad: str, missing: tuple[str, ...] = ()) -> list[Flag]:
    return [unchecked(n, ASK) if n in missing else Flag(n, n in bad, f"{n} measured 7", {"a": 1.0}) for n in CHECKS]


def test_a_line_for_each_raised_flag_and_one_where_there_is_none() -> None:
    assert health.lines({"a": flags(), "b": flags()}) == ["No flag raised (11 checks)."]
    found = health.lines({"a": flags("reach"), "b": flags("reach", "one-step")})
    assert found == [
        "Flag raised: a: reach: reach measured 7.",
        "Flag raised: b: one-step: one-step measured 7.",
        "Flag raised: b: reach: reach measured 7.",
    ]
    assert health.lines({"a": flags(), "b": flags(missing=TWO_OPEN)}) == [
        "No flag raised (9 checks).",
        "Not checked: iterations, transfer (--health runs what it can).",
    ]
    open_ = [unchecked(flag.name, "no images") if flag.name == "transfer" else flag for flag in flags()]
    assert health.lines({"a": open_})[1] == "Not checked: transfer."
    assert health.lines({}) == []


def test_markdown_has_a_row_for_each_model_and_a_column_for_each_check() -> None:
    lines = health.markdown({"a": flags("reach"), "b": flags(missing=TWO_OPEN)}).splitlines()
    assert [cell.strip() for cell in lines[1].split("|")[2:-1]] == list(CHECKS)
    assert [line.count("raised") for line in lines[3:5]] == [1, 0]
    assert lines[4].count("not checked") == 2
    assert "Flag raised: a: reach: reach measured 7." in lines
    assert health.markdown({}) == ""


def test_the_page_says_passed_raised_and_not_checked_in_words() -> None:
    rows = [row("T", 0.5, role="teacher"), row("S")]
    found = Checker(a_page(rows, flags={"T": flags(), "S": flags("one-step", missing=TWO_OPEN)}))
    section = found.text.partition("Is the robustness real?")[2].partition("Input gradients and attacks")[0]
    table = section.partition("What was measured")[0]
    assert [table.count(word) for word in ("✓ passed", "✗ raised", "– not checked")] == [11 + 8, 1, 2]
    assert "S, one-step: one-step measured 7." in table
    assert "No flag raised" not in table
    assert "No flag raised." in Checker(a_page(rows, flags={"T": flags(), "S": flags()})).text
    assert "Is the robustness real?" not in Checker(a_page(rows)).text  # a folder from before there were checks


def test_a_hostile_flag_is_only_text() -> None:
    bad = [Flag(n, True, HOSTILE, {}) for n in CHECKS]
    html = a_page([row(HOSTILE)], flags={HOSTILE: bad})
    assert "<script" not in html
    assert HOSTILE in Checker(html).text


def test_flags_are_read_beside_each_evaluation_and_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    write(flags("reach"), tmp_path / "b" / "health.json")
    assert health.load(tmp_path, ["a", "b"]) == {"b": flags("reach")}
    assert health.load(tmp_path, ["only"]) == {}
    write(flags(), tmp_path / "health.json")
    assert health.load(tmp_path, ["only"]) == {"only": flags()}
    (tmp_path / "health.json").write_text("[")
    with pytest.raises(BadInput, match="evaluate again with --resume"):
        health.load(tmp_path, ["only"])


def test_results_keep_the_names_of_raised_flags(tmp_path: Path) -> None:
    given: dict[str, Any] = dict.fromkeys(("pgd20", "autoattack", "low", "high", "seconds")) | {"parameters": 1, "clean": 1, "n": 5}
    for value, expected in (([], ()), (["reach"], ("reach",)), (None, None)):
        (tmp_path / "r.json").write_text(json.dumps([given | {"name": "x", "flags": value}]))
        assert read_results(tmp_path / "r.json")[0].flags == expected
    for wrong in ("reach", [1], True):
        (tmp_path / "r.json").write_text(json.dumps([given | {"name": "x", "flags": wrong}]))
        with pytest.raises(BadInput, match="flags must be a list of names or null"):
            read_results(tmp_path / "r.json")


@pytest.fixture
def nets(tmp_path: Path) -> list[str]:
    torch.manual_seed(0)
    specs = []
    for name in ("one", "two"):
        torch.save(cnn((1, 8, 8), 10, width=4).state_dict(), tmp_path / f"{name}.pt")
        specs.append(f"{tmp_path / name}.pt?arch=cnn&width=4")
    return specs


def test_compare_runs_the_checks_and_writes_what_they_said(
    nets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[dict[str, Any]] = []

    def stub(model: Any, x: Any, y: Any, threat: Any, **given: Any) -> list[Flag]:
        assert not model.training
        asked.append({"model": model, "threat": threat} | given)
        return flags("reach") if len(asked) == 1 else flags()

    monkeypatch.setattr(compare_module, "health", stub)
    out = tmp_path / "out"
    words = ["compare", *nets, "--n", "12", "--attacks", "pgd20", "--out", str(out)]
    assert main([*words, "--health"]) == 0
    one, two = asked
    assert one["full"] is two["full"] is True
    assert list(one["sources"].values()) == [two["model"]]
    assert one["found"].n == 12
    assert one["found"].threat == one["threat"]
    assert one["threat"].norm == inf
    rows = read_results(out / "results.json")
    assert [r.flags for r in rows] == [("reach",), ()]
    assert f"Flag raised: {rows[0].name}: reach: reach measured 7." in capsys.readouterr().out
    assert "reach measured 7" in (out / "results.md").read_text()
    assert len(json.loads((out / rows[1].name / "health.json").read_text())) == len(CHECKS)
    page = (out / "report.html").read_text()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").read_text() == page
    for name in (r.name for r in rows):
        (out / name / "health.json").unlink()
    assert main(["report", str(out)]) == 0  # a folder from before there were checks
    assert "Is the robustness real?" not in (out / "report.html").read_text()
    assert main([*words, "--overwrite"]) == 0
    assert asked[-1]["full"] is False


def test_one_model_alone_says_what_was_not_checked(nets: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", nets[0], "--n", "12", "--attacks", "fgsm,pgd20", "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "No flag raised (4 checks)." in shown
    assert re.search("Not checked: iterations, .*transfer", shown)
