"""The ascent loop on functions whose maximum over the ball is known."""

import contextlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kdiga.errors import BadInput
from kdiga.inner import direction, eval_mode, maximise, project, random_point, remembering, repeating
from kdiga.types import Threat

LINF, L2 = Threat(norm=math.inf, eps=0.1), Threat(norm=2.0, eps=0.5)


def images(seed: int = 0, n: int = 4) -> Tensor:
    return torch.rand(n, 2, 3, 3, generator=torch.Generator().manual_seed(seed))


def inside(u: Tensor, x: Tensor, threat: Threat) -> bool:
    far = torch.linalg.vector_norm((u - x).flatten(1), ord=threat.norm, dim=1).max().item()
    return far <= threat.eps + 1e-6 and u.min().item() >= 0 and u.max().item() <= 1


@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
@given(seed=st.integers(0, 10_000), scale=st.floats(0, 5))
@settings(max_examples=30, deadline=None)
def test_projection_lands_in_the_ball_and_leaves_its_points_alone(threat: Threat, seed: int, scale: float) -> None:
    x = images(seed).round(decimals=0) if seed % 2 else images(seed)  # images at 0 and 1, too
    u = project(x + scale * torch.randn_like(x), x, threat)
    assert inside(u, x, threat)
    assert torch.allclose(project(u, x, threat), u, atol=1e-6)


@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
def test_ascent_reaches_the_exact_maximum_of_a_linear_function(threat: Threat) -> None:
    x = 0.4 + 0.2 * images()  # the ball stays inside [0, 1]
    w = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    threat = Threat(norm=threat.norm, eps=min(threat.eps, 0.3))
    dual = 1.0 if threat.norm == math.inf else 2.0
    reach = threat.eps * torch.linalg.vector_norm(w.flatten(1), ord=dual, dim=1)
    for steps in (2, 5, 10, 20) if threat.norm == math.inf else (20, 40):
        torch.manual_seed(steps)
        u = maximise(lambda u: (w * u).flatten(1).sum(1), x, threat, steps=steps, start=random_point(x, threat))
        gained = (w * (u - x)).flatten(1).sum(1)
        assert (gained / reach).tolist() == pytest.approx([1.0] * 4, rel=1e-5 if threat.norm == math.inf else 0.03)
        assert inside(u, x, threat)


def test_the_default_step_crosses_the_ball_from_its_far_face() -> None:
    x = torch.full((1, 1, 1, 1), 0.5)
    for steps in range(2, 30):
        u = maximise(lambda u: u.flatten(1).sum(1), x, LINF, steps=steps, start=x - LINF.eps)
        assert u.item() == pytest.approx(0.6)


def test_default_step_is_the_fields_two_of_255() -> None:
    x, threat = torch.full((1, 1, 1, 1), 0.5), Threat(norm=math.inf, eps=8 / 255)
    seen: list[float] = []

    def f(u: Tensor) -> Tensor:
        seen.append(u.item())
        return u.flatten(1).sum(1)

    maximise(f, x, threat, steps=10, start=x)
    assert seen[1] - seen[0] == pytest.approx(2 / 255, rel=1e-5)


def test_swapped_eps_and_step_are_refused() -> None:
    x = images()
    with pytest.raises(BadInput, match="swapped"):
        maximise(lambda u: u.flatten(1).sum(1), x, Threat(norm=math.inf, eps=2 / 255), steps=10, step_size=8 / 255, start=x)
    with pytest.raises(BadInput, match="at least one step"):
        maximise(lambda u: u.flatten(1).sum(1), x, LINF, steps=0, start=x)


def test_direction_is_the_steepest() -> None:
    g = torch.tensor([3.0, -4.0, 0.0, 0.0]).view(1, 1, 2, 2)
    assert direction(g, LINF).flatten().tolist() == [1, -1, 0, 0]
    assert direction(g, L2).flatten().tolist() == pytest.approx([0.6, -0.8, 0, 0])
    assert (direction(0 * g, L2) == 0).all()


@pytest.mark.parametrize("threat", [LINF, Threat(norm=2.0, eps=0.3)], ids=str)
def test_random_points_fill_the_ball(threat: Threat) -> None:
    torch.manual_seed(0)
    x = torch.full((4000, 1, 2, 2), 0.5)
    d = (random_point(x, threat) - x).flatten(1)
    r = torch.linalg.vector_norm(d, ord=threat.norm, dim=1) / threat.eps
    assert r.max() <= 1 + 1e-5
    # uniform in d dimensions: the share within radius t is t^d
    assert (r < 0.5).float().mean().item() == pytest.approx(0.5**4, abs=0.02)
    assert d.mean().abs().item() < 0.01


def test_random_points_of_black_and_white_images_stay_images() -> None:
    assert inside(random_point(images().round(), LINF), images().round(), LINF)


def test_eval_mode_restores_each_module() -> None:
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.Dropout()))
    net.train()
    net[1].eval()
    with contextlib.suppress(RuntimeError), eval_mode(net):
        assert not any(m.training for m in net.modules())
        raise RuntimeError
    assert [m.training for m in net.modules()] == [True, True, False, False]


def test_threat_refuses_what_it_cannot_mean() -> None:
    assert Threat.parse("linf", "8/255").eps == pytest.approx(8 / 255)
    assert Threat.parse("L2", 0.5) == Threat(norm=2.0, eps=0.5)
    assert str(Threat.parse("linf", "8/255")) == "linf eps 8/255"
    assert [str(Threat.parse("linf", eps)) for eps in ("0.1", "0.2", "4/255")] == ["linf eps 0.1", "linf eps 0.2", "linf eps 4/255"]
    assert str(Threat.parse("l2", 0.5)) == "l2 eps 0.5"
    for norm, eps, said in [("linf", "8", "8/255"), ("linf", "x", "8/255"), ("l1", "0.1", "linf or l2"), ("linf", "-1", "at least 0"),
                            ("l2", "nan", "at least 0"), ("linf", "1/0", "not a number")]:  # fmt: skip
        with pytest.raises(BadInput, match=said):
            Threat.parse(norm, eps)


def test_points_are_remembered_and_repeated() -> None:
    """What a first call found is given to a second one without a search, in order; outside, nothing is remembered."""
    x = torch.rand(2, 1, 3, 3)
    calls = []

    def f(u: Tensor) -> Tensor:
        calls.append(1)
        return u.flatten(1).sum(1)

    threat = Threat(norm=math.inf, eps=0.1)
    with remembering() as found:
        first = maximise(f, x, threat, steps=2, start=x)
        second = maximise(lambda u: -f(u), x, threat, steps=2, start=x)
    assert torch.equal(torch.stack(found), torch.stack([first, second]))
    maximise(f, x, threat, steps=1, start=x)
    assert len(found) == 2
    before = len(calls)
    with repeating(found):
        again = [maximise(f, x, threat, steps=2, start=x) for _ in range(2)]
    assert torch.equal(torch.stack(again), torch.stack(found))
    assert len(calls) == before
    assert torch.equal(maximise(f, x, threat, steps=2, start=x), first)
    assert len(calls) == before + 2


def test_remembering_may_be_nested_and_hears_of_repeated_points() -> None:
    """An objective that remembers its base's attack (igdm) is itself remembered, and repeated, under weight perturbation."""
    x, threat = torch.rand(2, 1, 3, 3), Threat(norm=math.inf, eps=0.1)

    def attack() -> Tensor:
        return maximise(lambda u: u.flatten(1).sum(1), x, threat, steps=1, start=x)

    with remembering() as outer:
        with remembering() as within:
            first = attack()
        attack()
    assert [len(within), len(outer)] == [1, 2]
    with repeating(outer), remembering() as again:
        attack()
    assert torch.equal(again[0], first)
