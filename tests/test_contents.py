"""`kdiga list`: a line and a citation for every objective, and all about one of them."""

import re
from typing import Literal

import pytest

from kdiga.cli import main
from kdiga.contents import about, contents, listing
from kdiga.errors import BadInput
from kdiga.objectives import GIVEN, OBJECTIVES, distils
from kdiga.options import Count, Positive, accepted, convert

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_an_objectives_line_says_what_it_is_and_who_it_is_by(name: str) -> None:
    line = contents("objectives")[name]
    assert name == "ce" or re.search(r"arXiv \d{4}\.\d{5}|\[[a-z]+\d{4}[a-z]+\]", line)
    assert not re.match(r"arXiv|[^;]*\d{4}, arXiv", line), "the citation comes last"
    assert len(f"{name:14}{line}") <= 160, "two lines of 80 columns"


def test_objectives_are_listed_by_whether_they_need_a_teacher() -> None:
    alone, taught, hint = listing("objectives").split("\n\n")
    assert [line.split()[0] for line in alone.splitlines()[1:]] == [n for n in OBJECTIVES if not distils(n)]
    assert [line.split()[0] for line in taught.splitlines()[1:]] == [n for n in OBJECTIVES if distils(n)]
    assert "NAME" in hint


@pytest.mark.parametrize("kind", ["objectives", "attacks", "models", "datasets", "recipes"])
def test_lines_are_wrapped_to_a_terminal_and_left_whole_for_a_pipe(kind: str) -> None:
    narrow, wide = listing(kind, 80).splitlines(), listing(kind).splitlines()
    assert max(map(len, narrow)) <= 80
    assert " ".join(" ".join(narrow).split()) == " ".join(" ".join(wide).split())
    names = [line.split()[0] for line in narrow if line and line[0] != " "]
    assert set(contents(kind)) <= set(names)
    assert all(any(line.startswith(f"{name} ") and line.endswith(text) for line in wide) for name, text in contents(kind).items())


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_all_about_an_objective(name: str) -> None:
    text = about(name)
    assert re.search(r"^ +L +=", text, re.M)
    for option, parameter in accepted(OBJECTIVES[name], hidden=GIVEN).items():
        (row,) = re.findall(rf"^  {option} +(\S+)  +(.+)$", text, re.M)
        assert convert(OBJECTIVES[name], {option: row[0]}, hidden=GIVEN) == {
            option: parameter.default
        }  # what is shown can be given
        assert row[1]
    assert not re.search(r"^  (threat|standard_teacher|memory) ", text, re.M)


def test_what_an_option_may_be_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def toy(*, steps: Count = 3, size: Positive | None = None, point: Literal["a", "b"] = "b", deep: bool = False) -> None: ...

    monkeypatch.setitem(OBJECTIVES, "toy", toy)
    assert about("toy").splitlines()[-4:] == [
        "  steps  3      whole number, at least 1",
        "  size   none   number, above 0, or none",
        "  point  b      a or b",
        "  deep   false  true or false",
    ]


def test_list_takes_the_name_of_an_objective(capsys: Capture) -> None:
    assert main(["list", "objectives", "trades"]) == 0
    assert capsys.readouterr().out == about("trades") + "\n"
    assert main(["list", "attacks", "square"]) == 2
    assert "only objectives" in capsys.readouterr().err
    with pytest.raises(BadInput, match=r"'trade': did you mean 'trades'\? accepted: ce, "):
        about("trade")
