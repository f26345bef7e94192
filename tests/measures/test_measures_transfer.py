"""The transfer bound against quadratic models, on which every part is known, against a grid, and against docs/theory.md."""

import re
from math import inf, log
from pathlib import Path

import pytest
import torch
from closed_form import L2, LINF, Quadratic, Smooth, diagonal, grid, image

from kdiga.measures import MEASURES
from kdiga.measures.linearity import linear_bound, local_linearity
from kdiga.measures.tangent import LIMITS, LOSSES, Loss
from kdiga.measures.transfer import Transfer, transfer, transfer_bound, transfer_slack
from kdiga.types import Threat

THEORY = Path(__file__).parents[2] / "docs" / "theory.md"
both_norms = pytest.mark.parametrize("threat", [LINF, L2], ids=str)

# the worked examples of docs/theory.md: two pixels at 1/2, l-inf eps 0.1, the margin
FLAT = [[0.0, 0.0], [0.0, 0.0]]
EXAMPLES = {
    "linear": (FLAT, FLAT),
    "curved apart": (diagonal(10.0, 0.0), diagonal(0.0, -6.0)),
    "curved together": (diagonal(-10.0, 0.0), diagonal(0.0, 6.0)),
}


def worked(name: str) -> tuple[Quadratic, Quadratic]:
    own, other = EXAMPLES[name]
    return Quadratic(-0.7, [3.0, -1.5], own), Quadratic(-0.8, [2.0, -1.0], other)


def written(name: str) -> dict[str, float | bool]:
    """A column of the table of worked examples: numbers, and yes or no."""
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in THEORY.read_text().splitlines() if line.startswith("|")]
    head = next(i for i, line in enumerate(lines) if "curved apart" in line)
    column = lines[head].index(name)
    rows = {re.sub(r"[`]", "", line[0]): line[column] for line in lines[head + 2 :] if len(line) == len(lines[head])}
    return {key: value == "yes" if value in ("yes", "no") else float(value) for key, value in rows.items()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_worked_examples_of_the_theory(name: str) -> None:
    (student, teacher), (x, y), said = worked(name), image(0.5, 0.5), written(name)
    r = transfer(student, teacher, x, y, LINF, loss="margin", steps=20)
    u = grid(x, LINF)
    own, other = (LOSSES["margin"](m(u), y.expand(len(u))) for m in (student, teacher))
    found = {
        "gap": r.gap.item(),
        "alignment": r.alignment.item(),
        "gamma_student": r.gamma_student.item(),
        "gamma_teacher": r.gamma_teacher.item(),
        "bound": r.bound.item(),
        "largest difference": (own - other).abs().max().item(),
        "excess": r.excess.item(),
        "teacher's worst loss": other.max().item(),
        "slack": r.slack.item(),
        "inherits": bool(r.inherits),
        "student's linear bound": linear_bound(student, x, y, LINF, loss="margin").item(),
        "student's worst loss": own.max().item(),
    }
    assert said.keys() == found.keys()
    for key, value in found.items():
        assert said[key] == pytest.approx(value, abs=1e-3), key


def test_equality_for_linear_losses_in_both_norms() -> None:
    x, y = image(0.5, 0.5)
    for threat, length in ((LINF, 1.5), (L2, 1.25**0.5)):
        student, teacher = worked("linear")
        r = transfer(student, teacher, x, y, threat, loss="margin", steps=20)
        assert r.bound.item() == pytest.approx(0.1 + 0.1 * length, abs=1e-5)
        assert r.found.item() == pytest.approx(r.bound.item(), abs=1e-5)
        assert r.excess.item() == pytest.approx(r.bound.item(), abs=1e-5)
        assert r.slack.item() == pytest.approx(0.8 - 0.1 * (3 if threat.norm == inf else 5**0.5), abs=1e-5)


def test_the_measures_are_the_parts_and_their_gammas_are_local_linearity() -> None:
    student, teacher = Smooth(0), Smooth(1)
    x, y = torch.rand(6, 1, 1, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])

    def seeded(loss: Loss) -> tuple[Transfer, list[torch.Tensor]]:
        def from_the_start(name: str, model: torch.nn.Module, **options: object) -> torch.Tensor:
            torch.manual_seed(0)
            return MEASURES[name](model, x, y, LINF, loss=loss, steps=10, restarts=3, **options)

        torch.manual_seed(0)
        whole = transfer(student, teacher, x, y, LINF, loss=loss, steps=10, restarts=3)
        return whole, [
            from_the_start("transfer-bound", student, teacher=teacher),
            from_the_start("transfer-slack", student, teacher=teacher),
            from_the_start("local-linearity", student),
            from_the_start("local-linearity", teacher),
        ]

    losses: tuple[Loss, ...] = ("ce", "margin")
    for loss in losses:
        r, (bound, slack, own, other) = seeded(loss)
        assert torch.allclose(r.bound, bound, atol=1e-6)
        assert torch.allclose(r.slack - r.excess, slack, atol=1e-6)
        assert torch.equal(r.inherits, slack > 0)
        assert torch.equal(r.gamma_student, own)
        assert torch.equal(r.gamma_teacher, other)
        assert (r.excess <= r.bound + 1e-6).all()
        assert (r.excess >= 0).all()


@both_norms
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_no_point_of_a_grid_violates_the_bound_and_what_inherits_is_right_everywhere(loss: Loss, threat: Threat) -> None:
    teacher = Smooth(0, scale=1.0)
    student = Smooth(0, scale=1.15)  # close to the teacher, and neither linear
    x = torch.rand(16, 1, 1, 2, generator=torch.Generator().manual_seed(1))
    x[:4] = x[:4].round()  # corners of the box
    y = teacher(x).argmax(1)
    r = transfer(student, teacher, x, y, threat, loss=loss, steps=20)
    robust = []
    for i in range(len(x)):
        u = grid(x[i : i + 1], threat)
        label = y[i].expand(len(u))
        own, other = (LOSSES[loss](m(u), label) for m in (student, teacher))
        assert (own - other).abs().max() <= r.bound[i] + 1e-5
        assert (own - other).max() <= r.excess[i] + 1e-5
        assert r.slack[i].item() == pytest.approx(LIMITS[loss] - other.max().item(), abs=5e-3)
        assert r.found[i].item() == pytest.approx((own - other).abs().max().item(), rel=0.05, abs=2e-3)
        robust.append(bool((student(u).argmax(1) == label).all()))
    assert (torch.tensor(robust) | ~r.inherits).all()
    assert 0.2 < r.inherits.float().mean() < 1


def test_where_the_teacher_fails_there_is_nothing_to_inherit() -> None:
    """A student far better than its teacher: its loss is below the teacher's by more than the teacher lacks."""
    (x, y), teacher, student = image(0.5, 0.5), Quadratic(0.1, [1.0, 1.0]), Quadratic(-3.0, [1.0, 1.0])
    r = transfer(student, teacher, x, y, LINF, loss="margin", steps=5)
    assert r.excess.item() == 0
    assert r.slack.item() == pytest.approx(-0.3, abs=1e-5)
    assert not r.inherits.any()
    assert transfer_slack(student, x, y, LINF, teacher=teacher, loss="margin", steps=5).item() == pytest.approx(-0.3, abs=1e-5)


def test_without_a_budget_the_gap_alone_is_left() -> None:
    (student, teacher), (x, y) = worked("curved apart"), image(0.5, 0.5)
    none = Threat(norm=inf, eps=0.0)
    assert transfer_bound(student, x, y, none, teacher=teacher, loss="margin", steps=3).item() == pytest.approx(0.1, abs=1e-6)
    assert transfer_slack(student, x, y, none, teacher=teacher, loss="margin", steps=3).item() == pytest.approx(0.7, abs=1e-6)
    assert local_linearity(student, x, y, none, loss="margin", steps=3).item() == 0


def test_a_cross_entropy_below_log_2_and_a_margin_below_0_mean_right() -> None:
    z, y = 3 * torch.randn(500, 4, generator=torch.Generator().manual_seed(0)), torch.arange(500) % 4
    right = z.argmax(1) == y
    assert {"ce": log(2), "margin": 0.0} == LIMITS
    assert right[LOSSES["ce"](z, y) < LIMITS["ce"]].all()
    assert torch.equal(LOSSES["margin"](z, y) < LIMITS["margin"], right)
    assert LOSSES["margin"](torch.tensor([[1.0, 4.0, 2.5]] * 3), torch.tensor([0, 1, 2])).tolist() == [3.0, -1.5, 1.5]
    barely = torch.tensor([[0.01, 0.0], [0.0, 0.01]])
    assert (LOSSES["ce"](barely, torch.tensor([0, 0])) < LIMITS["ce"]).tolist() == [True, False]


def test_the_roots_in_the_theory() -> None:
    text = THEORY.read_text()
    for size in re.findall(r"sqrt\((\d+)\) = (\d+)", text):
        assert round(int(size[0]) ** 0.5) == int(size[1])
    assert "sqrt(784) = 28" in text
