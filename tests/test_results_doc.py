"""The tables in docs/results.md are the committed results, figure by figure, and what they were measured with is known."""

import importlib.util
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from kdiga import measure, ranking
from kdiga.methods import methods
from kdiga.objectives import OBJECTIVES, kdiga_j
from kdiga.recipe import read
from kdiga.report.measures import markdown as measures_markdown
from kdiga.report.methods import markdown
from kdiga.types import Batch, Threat

ROOT = Path(__file__).parents[1]
TEXT, RESULTS = (ROOT / "docs" / "results.md").read_text(), ROOT / "docs" / "results"


@pytest.mark.parametrize("name", ["methods-digits", "methods-fashion"])
def test_the_comparisons_are_what_was_measured_with_the_recipe_that_ships(name: str) -> None:
    rows, teacher, about = ranking.read_report(RESULTS / name)
    assert markdown(rows, teacher, about).partition("\n\n")[0] in TEXT
    assert teacher is not None
    assert len(about.provenance["revision"]) == 12  # a commit, and nothing changed since
    assert {(row.name, row.objective) for row in rows} == {(m.name, m.recipe.objective) for m in methods(read(name))}


@pytest.mark.parametrize("name", ["evidence", "evidence-seeds", "smoothed"])
def test_the_evidence_is_what_was_measured(name: str) -> None:
    found = measure.read_report(RESULTS / name)
    models, measures = (part.strip() for part in measures_markdown(*found).split("\n\n")[:2])
    agreement = "\n".join(line for line in measures.splitlines() if line.startswith("|"))
    for table in {"evidence": (models, agreement), "evidence-seeds": (agreement,), "smoothed": (models,)}[name]:
        assert table in TEXT
    assert len(found[3].provenance["revision"]) == 12


@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_the_studys_tables_are_what_was_measured(name: str) -> None:
    found = json.loads((RESULTS / f"kdiga_j-{name}.json").read_text())
    assert study().table(found["runs"]) in TEXT
    assert len(found["environment"]["revision"]) == 12


def test_the_studys_default_is_the_objective() -> None:
    """benchmarks/kdiga_j.py opens everything to change and so writes the objective out again: unchanged, it must be the same one."""
    threat = Threat.parse("linf", "0.1")
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.SiLU(), nn.Linear(8, 5)) for _ in range(2))
    teacher.requires_grad_(False)
    batch = Batch(torch.rand(6, 1, 4, 4), torch.randint(5, (6,)), torch.arange(6))
    found = []
    for objective in (study().objective(threat), partial(kdiga_j, threat=threat)):
        torch.manual_seed(1)
        found.append(objective(student, teacher, batch, 0.5))
    assert found[0].keys() == found[1].keys() == {"ce", "kd", "jac"}
    assert all(torch.allclose(found[0][k], found[1][k]) for k in found[0])


def study() -> ModuleType:
    """benchmarks/kdiga_j.py"""
    spec = importlib.util.spec_from_file_location("study", ROOT / "benchmarks" / "kdiga_j.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["study"] = module
    spec.loader.exec_module(module)
    return module


def test_the_comparison_on_digits_leaves_no_objective_out() -> None:
    proofs = {"ibp"}  # trained for a certificate at a smaller eps: docs/certificates.md has its figures
    assert {m.recipe.objective for m in methods(read("methods-digits"))} == set(OBJECTIVES) - proofs
