"""Passes and operations of a training step against a count by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdiga import data
from kdiga.counting import count, step_cost
from kdiga.objectives import OBJECTIVES
from kdiga.options import accepted
from kdiga.recipe import resolve
from kdiga.types import Batch, Threat

CPU = torch.device("cpu")


def network(width: int = 16) -> nn.Sequential:
    torch.manual_seed(width)
    wide = nn.Conv2d(width, width, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(1, width, 1), nn.SiLU(), wide, nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)
    )


def batch(n: int = 6) -> Batch:
    return Batch(torch.rand(n, 1, 8, 8), torch.arange(n) % 5, torch.arange(n))


def passes(name: str, **options: Any) -> tuple[tuple[float, ...], float]:
    """Student forwards and backwards, teacher's, and the operations in forwards of the student (a teacher like it)."""
    student, teacher, b = network().train(), network().eval().requires_grad_(False), batch()
    given = {"threat": Threat(norm=math.inf, eps=0.1)} if "threat" in accepted(OBJECTIVES[name]) else {}

    def step() -> None:
        terms = OBJECTIVES[name](student, teacher, b, 0.5, **given, **options)
        torch.stack([t.mean() for t in terms.values()]).sum().backward()

    found = count(step, student, [teacher], len(b.y))
    with torch.no_grad():
        one = count(lambda: student(b.x), student, (), len(b.y)).flops
    return (found.student_forwards, found.student_backwards, found.teacher_forwards, found.teacher_backwards), found.flops / one


@pytest.mark.parametrize(
    ("name", "options", "expected", "forwards"),
    [
        ("ce", {}, (1, 1, 0, 0), 3),  # a backward for inputs and weights is two forwards
        ("kd", {}, (1, 1, 1, 0), 4),
        ("pgd_at", {"steps": 10}, (11, 11, 0, 0), 10 * 2 + 3),  # of the attack's backwards only the input's half is computed
        ("pgd_at", {"steps": 3}, (4, 4, 0, 0), 3 * 2 + 3),
        ("trades", {"steps": 10}, (1 + 10 + 2, 10 + 2, 0, 0), 1 + 10 * 2 + 2 * 3),
        # the gradient's own backward, and the one that differentiates it: the way forward again, the input's and, twice, the weights'
        ("kdiga", {}, (1, 2, 1, 1), (1 + 1 + 4) + 2),
        ("kdiga", {"point": "random"}, (1, 2, 1, 1), 8),
        ("kdiga", {"batchnorm": "eval"}, (2, 3, 1, 1), (1 + 1 + 4) + 3 + 2),
    ],
)
def test_a_step_costs_what_a_count_by_hand_says(
    name: str, options: dict[str, Any], expected: tuple[int, ...], forwards: float
) -> None:
    found, cost = passes(name, **options)
    assert found == expected
    # the first layer's input and the double backward of padded edges: a few per cent
    assert cost == pytest.approx(forwards, rel=0.05)


def test_images_are_counted_and_not_calls() -> None:
    model, x = network(), torch.rand(4, 1, 8, 8)

    def step() -> None:
        model(torch.cat([x, x])).sum().backward()
        model(x[:2]).sum().backward()

    found = count(step, model, (), 4)
    assert (found.student_forwards, found.student_backwards) == (2.5, 2.5)


def test_the_flops_of_a_convolution_and_a_matrix_product() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(5 * 16, 7))
    x = torch.rand(2, 3, 4, 4)
    forward = 2 * (5 * 16 * 3 * 9 + 5 * 16 * 7)
    with torch.no_grad():
        assert count(lambda: model(x), model, (), 2).flops == forward
    every = count(lambda: model(x).sum().backward(), model, (), 2).flops
    assert every == 3 * forward - 2 * 5 * 16 * 3 * 9  # nobody asks for the image's gradient


def test_counting_leaves_no_hooks_behind() -> None:
    model = network()
    count(lambda: model(batch().x), model, (), 6)
    assert not model._forward_hooks


def test_the_step_that_is_counted_is_the_training_loops() -> None:
    """With weight perturbation, every step finds its direction first: one more forward and backward, and the attack only once."""
    digits = data.load("digits")
    table = {"model": "cnn?width=8", "objective": {"name": "pgd_at", "steps": 2}, "train": {"awp": 0.01}}
    state = torch.get_rng_state()
    plain, one = step_cost(resolve(table | {"train": {}}), digits, CPU)
    perturbed, _ = step_cost(resolve(table), digits, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert (plain.student_forwards, plain.student_backwards) == (3, 3)
    assert (perturbed.student_forwards, perturbed.student_backwards) == (4, 4)
    assert perturbed.flops - plain.flops == pytest.approx(3 * one, rel=0.05)


def test_a_phase_counts_for_its_share_of_training() -> None:
    digits, base = data.load("digits"), {"model": "cnn?width=8", "objective": {"name": "ce"}}
    plain, _ = step_cost(resolve(base), digits, CPU)
    late, _ = step_cost(resolve(base | {"train": {"awp": 0.01, "awp_warmup": 0.75}}), digits, CPU)
    assert (plain.student_forwards, late.student_forwards, late.student_backwards) == (1, 1.25, 1.25)


def test_what_is_remembered_is_there_when_the_step_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def remembers(
        student: nn.Module, teacher: nn.Module | None, b: Batch, progress: float, *, memory: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        for _ in range(1 if "seen" in memory else 5):
            z = student(b.x)
        memory["seen"] = z.detach()
        return {"ce": z.logsumexp(1)}

    monkeypatch.setitem(OBJECTIVES, "ce", remembers)
    found, _ = step_cost(resolve({"objective": {"name": "ce"}, "model": "cnn?width=8"}), data.load("digits"), CPU)
    assert found.student_forwards == 1
