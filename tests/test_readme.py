"""What the README says is run: its Python blocks as they stand, its commands through the parser."""

import re
import shlex
from pathlib import Path

import pytest

from kdiga.cli import parser
from kdiga.objectives import OBJECTIVES
from kdiga.recipe import shipped
from kdiga.report.rows import read_results
from kdiga.report.table import markdown

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [line.strip() for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines() if line.strip()]


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("kdiga")])
def test_kdiga_commands_parse_and_name_recipes_that_ship(command: str) -> None:
    words = shlex.split(command.partition("#")[0])[1:]
    arguments = parser().parse_args(words)
    recipe = getattr(arguments, "recipe", None)
    assert recipe is None or recipe in shipped()


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    named = [c.split()[1] for c in COMMANDS if c.startswith("make ")]
    assert {"demo", "test"} <= set(named) <= set(targets)


def test_there_are_commands() -> None:
    assert len([c for c in COMMANDS if c.startswith("kdiga")]) >= 5


@pytest.mark.parametrize("name", ["demo", "fashion-mnist"])
def test_tables_are_what_was_measured(name: str) -> None:
    """The README's tables are the Markdown of the committed results, figure by figure."""
    rows = read_results(ROOT / "docs" / "results" / f"{name}.json")
    assert markdown(rows).partition("\n\n")[0] in README


def test_objectives_are_counted() -> None:
    assert f"**{len(OBJECTIVES)} objectives**" in README
