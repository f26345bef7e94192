"""What holds for every attack in ATTACKS."""

import sys
from math import inf

import pytest
import torch
from known_answers import L2, LINF, Linear, Net, problem

from kdiga.attacks import ATTACKS, AUTOATTACK, autoattack, expand
from kdiga.errors import BadInput
from kdiga.inner import eval_mode
from kdiga.types import Threat

EXACT_FOR_TWO = [name for name in ATTACKS if name != "square"]  # on a two-class linear model; Square searches at random
EXACT_FOR_MORE = ["apgd-t", "fab-t"]  # they try every wrong class

every_attack = pytest.mark.parametrize("name", ATTACKS)
both_norms = pytest.mark.parametrize("threat", [LINF, L2], ids=str)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoattack, "STEPS", 20)
    monkeypatch.setattr(autoattack, "QUERIES", 100)


@pytest.fixture
def in_full(monkeypatch: pytest.MonkeyPatch, short: None) -> None:
    monkeypatch.setattr(autoattack, "STEPS", 100)
    monkeypatch.setattr(autoattack, "QUERIES", 1000)


def robust(model: torch.nn.Module, name: str, x: torch.Tensor, y: torch.Tensor, threat: Threat) -> torch.Tensor:
    found = ATTACKS[name](model, x, y, threat)
    with torch.no_grad(), eval_mode(model):
        right: torch.Tensor = model(found).argmax(1) == y
        return right


@pytest.mark.usefixtures("in_full")
@both_norms
@pytest.mark.parametrize("name", EXACT_FOR_TWO)
def test_exactly_the_samples_that_can_be_broken_are_broken(name: str, threat: Threat) -> None:
    model = Linear(2)
    x, y, worst = problem(model, threat)
    assert 0.2 <= (worst > 0).float().mean() <= 0.8
    assert torch.equal(robust(model, name, x, y, threat), worst > 0)


@pytest.mark.usefixtures("in_full")
@both_norms
@pytest.mark.parametrize("name", EXACT_FOR_MORE)
@pytest.mark.parametrize("classes", [3, 4])
def test_exact_with_more_classes(name: str, threat: Threat, classes: int) -> None:
    model = Linear(classes)
    x, y, worst = problem(model, threat)
    assert 0.1 < (worst > 0).float().mean() < 0.9
    assert torch.equal(robust(model, name, x, y, threat), worst > 0)


@pytest.mark.usefixtures("in_full")
@both_norms
def test_square_breaks_most_of_what_can_be_broken_and_nothing_else(threat: Threat) -> None:
    model = Linear(2)
    x, y, worst = problem(model, threat)
    left = robust(model, "square", x, y, threat)
    assert left[worst > 0].all()
    assert left[worst < 0].float().mean() < 0.5


@both_norms
@every_attack
def test_images_stay_in_the_threat_and_in_the_box(name: str, threat: Threat) -> None:
    model, x = Net(), (torch.rand(8, 1, 6, 6) * 1.4 - 0.2).clamp(0, 1)
    with eval_mode(model), torch.no_grad():
        y = model(x).argmax(1)
    large = Threat(norm=threat.norm, eps=10 * threat.eps)
    found = ATTACKS[name](model, x, y, large)
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert not found.requires_grad
    assert found.min() >= 0
    assert found.max() <= 1
    length = torch.linalg.vector_norm((found - x).flatten(1), ord=large.norm, dim=1)
    assert length.max() <= large.eps * (1 + 1e-5)
    assert length.max() > 0.1 * large.eps


@every_attack
def test_everything_is_left_as_it_was(name: str) -> None:
    model, x, y = Net(), torch.rand(4, 1, 6, 6), torch.tensor([0, 1, 2, 0])
    x_was, y_was = x.clone(), y.clone()
    modes = [m.training for m in model.modules()]
    wanted = [p.requires_grad for p in model.parameters()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    random, threads, dtype, grad = (
        torch.get_rng_state(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
    )
    ATTACKS[name](model, x, y, LINF)
    assert [m.training for m in model.modules()] == modes
    assert len(set(modes)) == 2
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert len(set(wanted)) == 2
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()) == (threads, dtype, grad)
    assert torch.equal(x, x_was)
    assert torch.equal(y, y_was)


@every_attack
def test_everything_is_left_as_it_was_after_an_exception(name: str) -> None:
    model, x = Net(), torch.rand(4, 1, 6, 6)
    modes, wanted, random = (
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        torch.get_rng_state(),
    )

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    model.body.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        ATTACKS[name](model, x, torch.tensor([0, 1, 2, 0]), LINF)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert torch.equal(torch.get_rng_state(), random)


@both_norms
@every_attack
def test_no_budget_no_change(name: str, threat: Threat) -> None:
    model, x = Net(), torch.rand(4, 1, 6, 6)
    assert torch.equal(ATTACKS[name](model, x, torch.tensor([0, 1, 2, 0]), Threat(norm=threat.norm, eps=0.0)), x)


@both_norms
@every_attack
def test_a_larger_ball_is_never_safer(name: str, threat: Threat) -> None:
    model = Linear(2)
    x, y, _ = problem(model, threat)
    counts = [int(robust(model, name, x, y, Threat(norm=threat.norm, eps=threat.eps * k)).sum()) for k in (0.0, 0.5, 1.0, 8.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == len(x)
    assert counts[-1] < len(x) / 4


@both_norms
@pytest.mark.parametrize("name", [n for n in ATTACKS if n not in ("fgsm", "square")])
def test_at_least_as_strong_as_one_step(name: str, threat: Threat) -> None:
    model = Linear(4)
    x, y, _ = problem(model, threat)
    assert robust(model, name, x, y, threat).sum() <= robust(model, "fgsm", x, y, threat).sum()


@every_attack
def test_the_global_random_state_alone_decides(name: str) -> None:
    model, x, threat = Net(), torch.rand(6, 1, 6, 6), Threat(norm=inf, eps=0.3)
    with eval_mode(model), torch.no_grad():
        y = model(x).argmax(1)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(ATTACKS[name](model, x, y, threat))
    assert torch.equal(found[0], found[1])
    if name not in ("fgsm", "fab-t"):  # they start from the image itself
        assert not torch.equal(found[0], found[2])


@both_norms
@every_attack
def test_one_image_in_another_memory_layout(name: str, threat: Threat) -> None:
    model = Linear(2)
    x, y, worst = problem(model, threat)
    for i, expected in ((int(worst.argmin()), False), (int(worst.argmax()), True)):
        one = x[i : i + 1].transpose(2, 3).contiguous().transpose(2, 3)
        assert not one.is_contiguous()
        assert robust(model, name, one, y[i : i + 1], threat).tolist() == [expected]


@pytest.mark.parametrize("name", ["pgd20", *AUTOATTACK])
def test_colour_images_in_channels_last(name: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.SiLU(), torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
    x, threat = torch.rand(4, 3, 6, 6), Threat(norm=inf, eps=0.3)
    y = model(x).argmax(1)
    plain = ATTACKS[name](model, x, y, threat)
    assert torch.equal(ATTACKS[name](model, x.to(memory_format=torch.channels_last), y, threat), plain)
    assert not torch.equal(plain, x)


@every_attack
def test_the_callers_grad_mode_and_precision_do_not_matter(name: str) -> None:
    model = Linear(2)
    x, y, _worst = problem(model, LINF)
    expected = ATTACKS[name](model, x, y, LINF)
    with torch.no_grad():
        assert torch.equal(ATTACKS[name](model, x, y, LINF), expected)
    with torch.inference_mode():
        assert torch.equal(ATTACKS[name](model, x.clone(), y.clone(), LINF), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ATTACKS[name](model, x, y, LINF), expected)


@every_attack
@pytest.mark.parametrize(("low", "high"), [(0.0, 255.0), (-1.0, 1.0), (0.0, float("nan"))])
def test_images_outside_the_box_are_refused(name: str, low: float, high: float) -> None:
    x = torch.zeros(1, 1, 6, 6)
    x[0, 0, 0, :2] = torch.tensor([low, high])
    with pytest.raises(BadInput, match=r"images must lie in \[0, 1\]"):
        ATTACKS[name](Net(), x, torch.tensor([0]), LINF)


@every_attack
def test_nothing_is_printed_and_the_trace_hook_stays(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoattack, "STEPS", 5)
    model, x, y = Net(), torch.rand(2, 1, 6, 6), torch.tensor([0, 0])
    with torch.no_grad():
        model.head.weight.zero_()  # constant logits, no gradient: pyautoattack would warn
        model.head.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))

    def hook(frame: object, event: str, arg: object) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(hook)
    try:
        found = ATTACKS[name](model, x, y, LINF)
        after = sys.gettrace()
    finally:
        sys.settrace(before)
    assert after is hook
    assert torch.isfinite(found).all()
    assert capfd.readouterr() == ("", "")


def test_names_expand_to_what_is_run() -> None:
    assert expand(("fgsm", "autoattack", "square", "fgsm")) == ("fgsm", "apgd-ce", "apgd-t", "fab-t", "square")
    assert expand(()) == ()
    with pytest.raises(BadInput, match="no attack 'autoatack': did you mean 'autoattack'"):
        expand(("autoatack",))
