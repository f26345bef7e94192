"""What every objective promises, run over OBJECTIVES: a new one is tested by being listed."""

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdiga.errors import BadInput
from kdiga.objectives import GIVEN, OBJECTIVES, needs_teacher
from kdiga.options import accepted, convert
from kdiga.types import Batch, Terms, Threat

THREAT = Threat(norm=math.inf, eps=0.1)
NAMES = list(OBJECTIVES)
DEFAULTS = {name: {o: p.default for o, p in accepted(f, hidden=GIVEN).items()} for name, f in OBJECTIVES.items()}
# A norm over the batch (that is what it is for), partners in the batch to mix with, weights that the batch decides.
CUT_DEPENDENT = {"kdiga_author", "advfunmatch", "saad", "mtard"}
# Of the student in training mode, where it is not one.
TWO = "trades mart llr cure rslad iad adaiad kdiga_ard_c kdiga_ard_a dgad mtard saad igd"
FORWARDS = dict.fromkeys(TWO.split(), 2) | {"gradalign": 3, "igdm": 3}
STANDARD = {"mtard": {"clean"}}  # terms that listen to the standard-trained teacher alone
LABELS = {"ce"}  # terms that need not listen to the teacher
NEAR = {
    "kdiga_author",
    "free",
    "cure",
    "gradnorm",
    "ibp",
}  # which by default, or at the first step, stay closer to x than the ball's edge
# May leave [0, 1], as the author's code does, and the ball by this factor: a start and a step, the ball of a mixed image.
OUTSIDE = {"kdiga_author": 1.0, "n_fgsm": 3.0, "advfunmatch": 10.0}
POINTS: dict[str, list[dict[str, Any]]] = {
    "kdiga": [{}, {"point": "random"}]
}  # options under which it is run, where not by default


def network(seed: int, batchnorm: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(6) if batchnorm else nn.Identity()
    return nn.Sequential(nn.Conv2d(2, 6, 3), norm, nn.SiLU(), nn.Flatten(), nn.Linear(6 * 9, 4))


def batch(n: int = 6, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return Batch(torch.rand(n, 2, 5, 5, generator=g), torch.randint(4, (n,), generator=g), torch.arange(n))


def call(name: str, student: nn.Module, teacher: nn.Module, b: Batch, seed: int = 0, **options: Any) -> Terms:
    torch.manual_seed(seed)
    return OBJECTIVES[name](student, teacher, b, 0.5, **options, **given(name, student))


def given(name: str, student: nn.Module) -> dict[str, Any]:
    """What the training loop fills in."""
    batchnorm = any(isinstance(m, nn.BatchNorm2d) for m in student.modules())
    standard = frozen(network(9, batchnorm)).to(next(student.parameters()).dtype)
    values = {"threat": THREAT, "standard_teacher": standard, "memory": {}}
    return {k: v for k, v in values.items() if k in accepted(OBJECTIVES[name])}


def frozen(model: nn.Module) -> nn.Module:
    return model.eval().requires_grad_(False)


def total(terms: Terms) -> Tensor:
    return torch.stack([t.mean() for t in terms.values()]).sum()


@pytest.mark.parametrize("name", NAMES)
def test_terms_are_finite_vectors_that_teach_the_student(name: str) -> None:
    student, b = network(1).train(), batch()
    terms = call(name, student, frozen(network(2)), b)
    assert all(t.shape == (6,) and t.isfinite().all() for t in terms.values())
    for term, values in terms.items():
        grads = torch.autograd.grad(values.sum(), list(student.parameters()), retain_graph=True, allow_unused=True)
        assert any(g is not None and g.abs().max() > 0 for g in grads), f"{term} teaches nothing"


@pytest.mark.parametrize("name", NAMES)
def test_the_teacher_is_left_as_it_was(name: str) -> None:
    teacher = frozen(network(2))
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    total(call(name, network(1).train(), teacher, batch())).backward()
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(m.training for m in teacher.modules())


@pytest.mark.parametrize("name", NAMES)
def test_the_students_mode_and_statistics_see_only_the_outer_forward(name: str) -> None:
    student = network(1).train()
    call(name, student, frozen(network(2)), batch())
    assert all(m.training for m in student.modules())
    assert student[1].num_batches_tracked == FORWARDS.get(name, 1)


@pytest.mark.parametrize("name", NAMES)
def test_the_batch_is_not_changed(name: str) -> None:
    b, before = batch(), batch().x
    call(name, network(1), frozen(network(2)), b)
    assert torch.equal(b.x, before)
    assert not b.x.requires_grad
    assert b.x.grad is None


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_terms(name: str) -> None:
    student, teacher = network(1).eval(), frozen(network(2))
    first, again = (call(name, student, teacher, batch(), seed=7) for _ in range(2))
    assert all(torch.equal(first[k], again[k]) for k in first)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in CUT_DEPENDENT])
def test_terms_do_not_depend_on_how_the_data_are_cut(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without BatchNorm and random starts, each sample's terms are its own: no mean over the batch hides in them."""
    monkeypatch.setattr(torch, "rand_like", lambda x: torch.full_like(x, 0.75))
    monkeypatch.setattr(
        torch, "randn_like", lambda x, dtype=None: torch.linspace(-0.2, 0.5, x[0].numel()).to(x).view(x[0].shape).expand_as(x)
    )
    student, teacher, b = network(1, batchnorm=False).double(), frozen(network(2, batchnorm=False).double()), batch()
    b = Batch(b.x.double(), b.y, b.row)
    for option in POINTS.get(name, [{}]):
        whole = call(name, student, teacher, b, **option)
        parts = [call(name, student, teacher, Batch(b.x[i : i + 2], b.y[i : i + 2], b.row[i : i + 2]), **option) for i in (0, 2, 4)]
        for k, values in whole.items():
            assert torch.allclose(values, torch.cat([p[k] for p in parts]), atol=1e-9), k


@pytest.mark.parametrize("name", [n for n in NAMES if needs_teacher(n)])
def test_every_term_but_the_labels_listens_to_the_teacher(name: str) -> None:
    for option in POINTS.get(name, [{}]):
        # a new student each time: a call moves its BatchNorm statistics, which the next attack would see
        one, other = (call(name, network(1), frozen(network(seed)), batch(), seed=3, **option) for seed in (2, 4))
        for term in one:
            assert term in LABELS | STANDARD.get(name, set()) or not torch.equal(one[term], other[term]), term


@pytest.mark.parametrize("name", [n for n in NAMES if "threat" in accepted(OBJECTIVES[n])])
def test_every_point_shown_to_the_student_is_inside_the_threat(name: str) -> None:
    seen: list[Tensor] = []
    student, b = network(1), batch()
    b = Batch(b.x.round(), b.y, b.row)  # black and white: the box matters
    student.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    for option in POINTS.get(name, [{}]):
        call(name, student, frozen(network(2)), b, seed=5, **option)
    points = torch.cat([u.view(-1, *b.x.shape) for u in seen])
    far = (points - b.x).abs().max().item()
    assert far <= OUTSIDE.get(name, 1.0) * THREAT.eps + 1e-6
    if name not in OUTSIDE:
        assert points.min().item() >= 0
        assert points.max().item() <= 1
    if name not in NEAR:
        assert far > 0.9 * THREAT.eps


NUMBERS = [(n, o) for n in NAMES for o, d in DEFAULTS[n].items() if isinstance(d, int | float) and not isinstance(d, bool)]


@pytest.mark.parametrize(("name", "option"), NUMBERS)
def test_numbers_outside_an_options_domain_are_refused(name: str, option: str) -> None:
    for value in (-1, -1e9):
        with pytest.raises(BadInput, match=f"option {option} is .*(at least|above|from|expected)"):
            convert(OBJECTIVES[name], {option: value}, hidden=GIVEN)


@pytest.mark.parametrize("name", [n for n in NAMES if "step_size" in accepted(OBJECTIVES[n])])
def test_a_step_larger_than_the_ball_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="swapped"):
        call(name, network(1), frozen(network(2)), batch(), step_size=2.01 * THREAT.eps)


@pytest.mark.parametrize("name", NAMES)
def test_chance_comes_from_torchs_generator_alone(name: str) -> None:
    before = random.getstate(), str(np.random.get_state())
    call(name, network(1), frozen(network(2)), batch())
    assert (random.getstate(), str(np.random.get_state())) == before
