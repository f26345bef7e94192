"""results.json, the tables, and how numbers are written."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kdiga.errors import BadInput
from kdiga.report.rows import REQUIRED, Row, read_results, write_results
from kdiga.report.table import markdown, terminal
from kdiga.report.text import count, duration, interval, percent

TEACHER = Row(
    name="teacher",
    parameters=46_160_474,
    clean=0.85,
    pgd20=0.55,
    autoattack=0.5,
    low=0.469,
    high=0.531,
    n=1000,
    seconds=None,
    role="teacher",
    threat="linf eps 8/255",
)
STUDENT = Row(
    name="a|b",
    parameters=950,
    clean=0.8,
    pgd20=None,
    autoattack=None,
    low=None,
    high=None,
    n=1000,
    seconds=200.0,
    fgsm=0.3,
    objective="kd",
    spec="cnn",
    threat="linf eps 8/255",
)


def test_results_come_back_as_written(tmp_path: Path) -> None:
    write_results([TEACHER, STUDENT], tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == [TEACHER, STUDENT]


def test_results_hold_the_promised_keys_as_fractions(tmp_path: Path) -> None:
    write_results([TEACHER], tmp_path / "results.json")
    (found,) = json.loads((tmp_path / "results.json").read_text())
    assert set(REQUIRED) <= set(found)
    assert found["autoattack"] == 0.5


def test_whole_numbers_are_accepted_as_accuracies_and_unknown_keys_left_out(tmp_path: Path) -> None:
    minimal = dict.fromkeys(REQUIRED) | {"name": "x", "parameters": 1, "clean": 1, "n": 5, "colour": "red"}
    (tmp_path / "r.json").write_text(json.dumps([minimal]))
    (row,) = read_results(tmp_path / "r.json")
    assert (row.clean, row.autoattack, row.role) == (1.0, None, "student")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clean": 85.0}, "row 1: x: clean is 85; accuracies are fractions from 0 to 1"),
        ({"clean": None}, "clean must be a number, got null"),
        ({"clean": True}, "clean must be a number, got true"),
        ({"autoattack": "half"}, 'autoattack must be a number or null, got "half"'),
        ({"autoattack": float("nan")}, "autoattack must be a number or null, got NaN"),
        ({"parameters": 1.5}, "parameters must be a whole number"),
        ({"parameters": 10**400}, "parameters must be a whole number"),
        ({"n": 0}, "n, the number of images, at least 1"),
        ({"role": "pupil"}, "role 'pupil' is not one of teacher, student, model"),
        ({"autoattack": 0.5, "low": 0.6, "high": 0.7}, "autoattack 0.5 is not inside its interval, 0.6 to 0.7"),
        ({"name": 3}, "name must be text"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_row(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    given = dict.fromkeys(REQUIRED) | {"name": "x", "parameters": 1, "clean": 0.5, "n": 5} | change
    (tmp_path / "r.json").write_text(json.dumps([given]))
    with pytest.raises(BadInput, match=r"r\.json, row 1") as caught:
        read_results(tmp_path / "r.json")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"name": 1}', "must hold a list of objects"),
        ("[1]", "must hold a list of objects"),
        ('[{"name": "x"}]', "row 1: parameters, clean, pgd20, autoattack, low, high, n, seconds missing"),
    ],
)
def test_a_file_that_is_no_results_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(BadInput, match=said):
        read_results(tmp_path / "r.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.json cannot be read"):
        read_results(tmp_path / "nowhere.json")


def test_an_interval_may_miss_its_end_by_rounding_only() -> None:
    replace(TEACHER, autoattack=0.0, low=1e-9, high=0.1)
    with pytest.raises(BadInput, match="not inside its interval"):
        replace(TEACHER, autoattack=0.0, low=0.01, high=0.1)


def test_markdown() -> None:
    assert markdown([TEACHER, STUDENT]) == (
        "| model | parameters | clean | PGD-20 | AutoAttack | 95 % interval | training |\n"
        "| :-- | --: | --: | --: | --: | --: | --: |\n"
        "| teacher | 46.2 M | 85.0 % | 55.0 % | 50.0 % | 46.9 to 53.1 % | – |\n"
        "| a\\|b | 950 | 80.0 % | – | – | – | 3 min 20 s |\n"
        "\n"
        "linf eps 8/255, 1000 images\n"
    )


def test_markdown_keeps_a_name_in_its_cell() -> None:
    line = markdown([replace(STUDENT, name="x\n| <b>y")]).splitlines()[2]
    assert line.startswith("| x \\| &lt;b>y | 950 |")


def test_the_terminal_shows_names_as_they_are() -> None:
    out = StringIO()
    Console(file=out, width=120).print(terminal([replace(TEACHER, name="[red]x[/red]")], "digits"))
    assert "[red]x[/red]" in out.getvalue()
    assert "46.9 to 53.1 %" in out.getvalue()
    assert "linf eps 8/255, 1000 images" in out.getvalue()


def test_numbers_in_words() -> None:
    assert [count(n) for n in (0, 999, 1000, 99_949, 99_960, 999_499, 999_500, 46_160_474, 2_000_000_000)] == [
        "0",
        "999",
        "1.00 k",
        "99.9 k",
        "100 k",
        "999 k",
        "1.00 M",
        "46.2 M",
        "2.00 G",
    ]
    assert [duration(s) for s in (None, 0.0, 59.94, 59.96, 3599.4, 3599.6, 7500.0)] == [
        "–",
        "0.0 s",
        "59.9 s",
        "1 min 00 s",
        "59 min 59 s",
        "1 h 00 min",
        "2 h 05 min",
    ]
    assert (percent(None), percent(0.4125), interval(0.379, 0.441), interval(None, 0.4)) == ("–", "41.2 %", "37.9 to 44.1 %", "–")
