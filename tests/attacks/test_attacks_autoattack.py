"""The four members against pyautoattack's own AutoAttack, and what pyautoattack does badly."""

import contextlib
from typing import Any

import pytest
import torch
from known_answers import L2, LINF, Linear, Net, problem

from kdiga.attacks import ATTACKS, AUTOATTACK, autoattack
from kdiga.errors import BadInput
from kdiga.types import Threat


@pytest.mark.parametrize("classes", [10, 100, 7])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_settings_are_those_of_the_standard_version(norm: str, classes: int) -> None:
    from pyautoattack import AutoAttack

    model = Linear(classes)
    whole = AutoAttack(model, norm=norm, eps=0.1, seed=3, version="standard")
    whole.apgd.loss, whole.fab.targeted = "ce", True  # set when it runs them
    whole.fab.n_target_classes = whole.apgd_targeted.n_target_classes = min(9, classes - 1)
    common: dict[str, Any] = {"norm": norm, "eps": 0.1, "seed": 3, "device": "cpu", "verbose": False}
    for build, theirs in (
        (autoattack.build_apgd_ce, whole.apgd),
        (autoattack.build_apgd_t, whole.apgd_targeted),
        (autoattack.build_fab_t, whole.fab),
        (autoattack.build_square, whole.square),
    ):
        ours = build(model, classes, **common)
        assert type(ours) is type(theirs)
        assert {k: v for k, v in vars(ours).items() if k != "logger"} == {k: v for k, v in vars(theirs).items() if k != "logger"}
    assert whole.attacks_to_run == list(AUTOATTACK)


@pytest.mark.parametrize("name", AUTOATTACK)
def test_the_images_are_those_of_the_package_at_the_same_seed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyautoattack import AutoAttack

    monkeypatch.setattr(autoattack, "QUERIES", 200)
    model, x, threat = Net(classes=4).eval(), torch.rand(12, 1, 6, 6), Threat(norm=float("inf"), eps=0.1)
    y = model(x).argmax(1)
    torch.manual_seed(5)
    ours = ATTACKS[name](model, x, y, threat)
    seed = int(torch.randint(2**31, ()))
    with torch.random.fork_rng():
        whole = AutoAttack(model, eps=threat.eps, seed=seed, version="custom", attacks=[name])
        whole.apgd.n_restarts = 1
        whole.square.n_queries, whole.fab.n_target_classes, whole.apgd_targeted.n_target_classes = 200, 3, 3
        theirs, _ = whole.run_standard_evaluation(x, y)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert not torch.equal(ours, x)
    for p in model.parameters():
        p.grad = None


@pytest.mark.parametrize("classes", [2, 3, 4, 9])
@pytest.mark.parametrize("name", AUTOATTACK)
def test_few_classes(name: str, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoattack, "STEPS", 20)
    monkeypatch.setattr(autoattack, "QUERIES", 200)
    model, x = Net(classes).eval(), torch.rand(8, 1, 6, 6)
    y = model(x).argmax(1)
    found = ATTACKS[name](model, x, y, Threat(norm=float("inf"), eps=0.5))
    assert (model(found).argmax(1) != y).any()


def test_with_three_classes_the_targeted_attack_climbs_the_margin_of_the_target() -> None:
    model = Linear(3)
    attack = autoattack.build_apgd_t(model, 3, norm="Linf", eps=0.1, seed=0, device="cpu", verbose=False)
    attack.y_target = torch.tensor([2, 0])
    z = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    assert attack.dlr_loss_targeted(z, torch.tensor([0, 1])).tolist() == [3.0, -1.0]
    four = autoattack.build_apgd_t(Linear(4), 4, norm="Linf", eps=0.1, seed=0, device="cpu", verbose=False)
    four.y_target = torch.tensor([1])
    z = torch.tensor([[5.0, 3.0, 2.0, 0.0]])
    torch.testing.assert_close(four.dlr_loss_targeted(z, torch.tensor([0])), torch.tensor([-2.0 / (5 - 1)]))


def test_one_class_is_refused() -> None:
    with pytest.raises(BadInput, match="at least two classes, the model has 1"):
        ATTACKS["apgd-ce"](Linear(1), torch.rand(1, 1, 6, 6), torch.tensor([0]), LINF)


def test_a_compiled_model_runs_and_gives_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoattack, "QUERIES", 20)
    monkeypatch.setattr(autoattack, "STEPS", 5)
    model = Linear(2)
    x, y, _ = problem(model, LINF)
    compiled: Any = torch.compile(model, backend="eager")
    for name in ("pgd20", *AUTOATTACK):
        assert torch.equal(ATTACKS[name](compiled, x, y, LINF), ATTACKS[name](model, x, y, LINF))


@pytest.mark.parametrize(("height", "width"), [(h, h) for h in range(2, 34)] + [(20, 24), (24, 20), (16, 48), (20, 10), (10, 21)])
def test_square_under_l2_refuses_exactly_the_sizes_at_which_the_package_fails(
    height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoattack, "QUERIES", 1)
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(1, 2)).eval()
    x = torch.rand(2, 1, height, width)
    y = model(x).argmax(1)
    fails = True
    with contextlib.suppress(RuntimeError, ZeroDivisionError), torch.random.fork_rng():
        autoattack.build_square(model, 2, norm="L2", eps=0.1, seed=0, device="cpu", verbose=False).perturb(x, y)
        fails = False
    if fails:
        with pytest.raises(BadInput, match=f"square under l2 cannot start on images of {height}x{width} pixels"):
            ATTACKS["square"](model, x, y, L2)
    else:
        assert ATTACKS["square"](model, x, y, L2).shape == x.shape
