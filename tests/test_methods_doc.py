"""docs/methods.md against the code: a row for every objective, with its paper, its formula in the code's names, and its file."""

import inspect
import re
from pathlib import Path

import pytest

import kdiga
from kdiga.cite import NAMED, source_lines
from kdiga.objectives import GIVEN, OBJECTIVES, needs_teacher
from kdiga.options import accepted

TEXT = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()
ROWS = {
    cells[1].strip(" `"): [cell.strip() for cell in cells[2:-1]]
    for line in TEXT.splitlines()
    if line.startswith("| `") and (cells := re.split(r"(?<!\\)\|", line))
}


def test_the_table_has_every_objective_once_in_their_order() -> None:
    assert re.findall(r"^\| `(\w+)` \|", TEXT, re.M) == list(OBJECTIVES)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_a_row_agrees_with_its_file(name: str) -> None:
    paper, _, file, differs = ROWS[name]  # four cells: a | inside one is written \|
    source = Path(kdiga.__file__).parent / file.strip("`")
    assert source == Path(inspect.getsourcefile(inspect.unwrap(OBJECTIVES[name])) or "")
    assert re.search(rf"^def {name}\(", source.read_text(), re.M)
    papers, first = NAMED.findall(paper), NAMED.findall(source_lines()[name])
    assert papers[: len(first)] == first  # what `kdiga cite` prints; after it papers that the header names besides
    assert set(papers) <= set(NAMED.findall(source.read_text()))
    assert len(differs) > 10


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_a_formula_names_the_terms_and_the_weights_that_the_code_has(name: str) -> None:
    formula = ROWS[name][1]
    weights = {option for option in accepted(OBJECTIVES[name], hidden=GIVEN) if option.endswith("_weight")}
    assert set(re.findall(r"\b\w+_weight\b", formula)) == weights
    assert re.search(r"CE\(|KL\(", formula)
    assert bool(re.search(r"\w_t\b", formula)) == needs_teacher(name)
    assert formula.count("(") == formula.count(")")
    assert formula.count("`") % 2 == 0


def test_what_is_left_out_is_not_there() -> None:
    left_out = re.findall(r"^- \*\*([^*]+)\*\*", TEXT.partition("## Left out, and why")[2], re.M)
    assert len(left_out) >= 10
    assert not {name.lower() for name in left_out} & OBJECTIVES.keys()


def test_names_of_objectives_and_files_in_the_prose_exist() -> None:
    prose = "\n".join(line for line in TEXT.splitlines() if not line.startswith("|"))
    for file in re.findall(r"`((?:src|tests|docs)/[\w/.]+)`", prose):
        assert (Path(__file__).parents[1] / file).exists(), file
