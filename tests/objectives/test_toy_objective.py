"""What CONTRIBUTING promises: a new objective is one file and one line in OBJECTIVES (with its import), and the contract tests take it from there.

A toy objective and three broken versions of it are added to a copy of the package; the contract is run over them, in a process of its own.
"""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACT = "tests/objectives/test_objectives_contract.py"
TOY = '''"""Nobody 2020, arXiv 2001.00001: a toy.

    x' = argmax_{u in ball(x)} CE(f_s(u), y)
    L  = CE(f_s(x'), y) + kd_weight KL(p_t(x') || p_s(x'))
"""

import torch
from torch import nn

from kdiga.inner import eval_mode, maximise, random_point
from kdiga.losses import cross_entropy, kl
from kdiga.options import Count, Weight
from kdiga.types import Batch, Terms, Threat


def toy(student: nn.Module, teacher: nn.Module, batch: Batch, progress: float, *, threat: Threat, kd_weight: Weight = 1.0, steps: Count = 5) -> Terms:
    with eval_mode(student):
        start = random_point(batch.x, threat)
        x = maximise(lambda u: cross_entropy(student(u), batch.y), batch.x, threat, steps=steps, start=start)
    with torch.no_grad():
        target = teacher(x)
    z = student(x)
    return {"ce": cross_entropy(z, batch.y), "kd": kd_weight * kl(z, target)}
'''
# name: (what is right, what is wrong instead, the promise of the contract that this breaks)
FAULTS = {
    "toy_mean": ("kl(z, target)}", "kl(z, target).mean().expand(len(z))}", "test_terms_do_not_depend_on_how_the_data_are_cut"),
    "toy_train_mode": ("with eval_mode(student):", "if True:", "test_the_students_mode_and_statistics_see_only_the_outer_forward"),
    "toy_deaf": ("target = teacher(x)", "target = 0 * teacher(x)", "test_every_term_but_the_labels_listens_to_the_teacher"),
    "toy_detached": ("kl(z, target)}", "kl(z.detach(), target)}", "test_terms_are_finite_vectors_that_teach_the_student"),
}


def add(name: str, source: str, package: Path) -> None:
    """One file, one line in OBJECTIVES, and its import."""
    (package / "objectives" / f"{name}.py").write_text(source.replace("def toy(", f"def {name}("))
    contents = package / "objectives" / "__init__.py"
    text = contents.read_text()
    text = text.replace("from kdiga.types", f"from kdiga.objectives.{name} import {name}\nfrom kdiga.types", 1)
    contents.write_text(re.sub(r"(OBJECTIVES: [^{]*\{\n)", rf'\1    "{name}": {name},\n', text, count=1))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bool]]:
    """For each toy, which tests of the contract passed."""
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / CONTRACT).parent.mkdir(parents=True)
    for name in (CONTRACT, "pyproject.toml"):
        shutil.copyfile(ROOT / name, copy / name)
    add("toy", TOY, copy / "src" / "kdiga")
    for name, (right, wrong, _) in FAULTS.items():
        assert TOY.count(right) == 1
        add(name, TOY.replace(right, wrong), copy / "src" / "kdiga")
    command = [sys.executable, "-m", "pytest", "--no-header", "--tb=no", "-k", "toy", "--junitxml", "found.xml", CONTRACT]
    environment = os.environ | {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, dict[str, bool]] = {name: {} for name in ("toy", *FAULTS)}
    for case in ElementTree.parse(copy / "found.xml").iter("testcase"):
        test, _, parameters = case.attrib["name"].partition("[")
        name = re.split(r"[]-]", parameters)[0]
        found[name][test] = found[name].get(test, True) and case.find("failure") is None
        assert case.find("error") is None
    return found


def test_a_right_objective_passes_the_whole_contract(outcomes: dict[str, dict[str, bool]]) -> None:
    tests = set(re.findall(r"^def (test_\w+)\(name: str", (ROOT / CONTRACT).read_text(), re.M))
    assert len(tests) >= 8
    assert outcomes["toy"].keys() >= tests - {"test_a_step_larger_than_the_ball_is_refused"}  # the toy has no such option
    assert all(outcomes["toy"].values()), outcomes["toy"]


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_broken_objective_breaks_the_promise_that_names_its_fault(name: str, outcomes: dict[str, dict[str, bool]]) -> None:
    assert not outcomes[name][FAULTS[name][2]], outcomes[name]
