"""What runs models: the pictures, against closed forms, and their file."""

from itertools import pairwise
from math import inf
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kdiga.errors import BadInput
from kdiga.report.gather import pick, pictures, sweep
from kdiga.report.pictures import Pictures, cosine, load, save
from kdiga.types import Images, Labels, Logits, Threat


class Linear(nn.Module):
    """Two classes with logits -w.x - b and w.x + b, up to scale: the l-inf margin of class 1 is (w.x + b) / |w|_1."""

    def __init__(self, w: Images, b: float) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(w), b

    def forward(self, x: Images) -> Logits:
        z = (x * self.w).sum((1, 2, 3)) + self.b
        return torch.stack([-z, z], 1)


def linear(size: int = 3) -> tuple[Linear, Images, Labels]:
    """A linear model that classifies mid-range images right, so that small perturbations are not clipped."""
    g = torch.Generator().manual_seed(0)
    w = torch.randn(1, 1, size, size, generator=g)
    x = 0.4 + 0.2 * torch.rand(64, 1, size, size, generator=g)
    model = Linear(w, -0.5 * w.sum().item())
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("norm", [inf, 2.0])
def test_sweep_of_a_linear_model_is_its_margin_distribution(norm: float) -> None:
    model, x, y = linear()
    dual = model.w.abs().sum() if norm == inf else model.w.norm()
    margin = ((x * model.w).sum((1, 2, 3)) + model.b).abs() / dual
    found = sweep(model, x, y, Threat(norm=norm, eps=0.01), factors=(0.0, 0.5, 1.0, 2.0, 4.0))
    assert [eps for eps, _ in found[:5]] == [0.0, 0.005, 0.01, 0.02, 0.04]
    for eps, accuracy in found:
        if eps <= 0.1:  # beyond, pixels reach 0 or 1
            assert accuracy == pytest.approx((margin > eps).float().mean().item())
    assert found[-1][1] == 0.0


def test_sweep_of_a_constant_model_ends_with_the_range_of_an_image() -> None:
    _, x, _ = linear()
    constant = Linear(torch.zeros(1, 1, 3, 3), 1.0)
    found = sweep(constant, x, torch.ones(64, dtype=torch.int64), Threat(norm=inf, eps=0.3), factors=(1.0,))
    assert found == [(0.0, 1.0), (0.3, 1.0), (0.6, 1.0), (1.0, 1.0)]


def test_sweep_never_rises_and_does_not_depend_on_the_batch_size() -> None:
    model, x, y = linear()
    whole, parts = (sweep(model, x, y, Threat(norm=inf, eps=0.02), batch_size=b) for b in (64, 7))
    assert whole == parts
    assert all(a >= b for (_, a), (_, b) in pairwise(whole))


def test_sweep_leaves_the_random_state_and_the_model_alone() -> None:
    model, x, y = linear()
    model.train()
    before = torch.get_rng_state()
    sweep(model, x, y, Threat(norm=inf, eps=0.02))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert model.w.grad is None


def test_sweep_without_images_is_refused() -> None:
    model, x, y = linear()
    with pytest.raises(BadInput, match="at least one image"):
        sweep(model, x[:0], y[:0], Threat(norm=inf, eps=0.02))


def test_pick_takes_classes_in_turn() -> None:
    y = torch.tensor([0] * 50 + [1] * 3 + [2] * 20 + [3])
    assert torch.bincount(y[pick(y, 4, 0)]).tolist() == [1, 1, 1, 1]
    assert torch.bincount(y[pick(y, 10, 0)]).tolist() == [3, 3, 3, 1]
    assert y[pick(y, 10, 0)].tolist() == sorted(y[pick(y, 10, 0)].tolist())
    assert sorted(pick(y, 100, 0).tolist()) == list(range(74))
    assert torch.equal(pick(y, 10, 5), pick(y, 10, 5))
    assert any(not torch.equal(pick(y, 10, 0), pick(y, 10, s)) for s in range(1, 5))


def test_pictures_hold_gradients_and_attacks_of_each_model() -> None:
    model, x, y = linear()
    found = pictures({"a": model, "b": Linear(-model.w.detach(), -model.b)}, x, y, Threat(norm=inf, eps=0.4), count=6)
    assert found.names == ("a", "b")
    assert torch.bincount(found.y).tolist() == [3, 3]
    # d CE / d x = -2 (1 - p_y) w for class 1 and the opposite for class 0
    toward = torch.where(found.y == 1, -1.0, 1.0)[:, None, None, None] * model.w.detach().sign()
    assert torch.equal(found.gradients["a"].sign(), toward)
    assert torch.equal(found.gradients["b"].sign(), -toward)
    assert torch.equal(found.adversarial["a"], (found.x + 0.4 * toward).clamp(0, 1))
    assert torch.equal(found.clean_prediction["a"], found.y)
    assert torch.equal(found.adversarial_prediction["a"], 1 - found.y)
    assert torch.equal(found.clean_prediction["b"], 1 - found.y)


def test_cosine() -> None:
    g = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(cosine(g, 1e-20 * g), torch.ones(5))
    assert torch.equal(cosine(g, -g), -torch.ones(5))
    a, b = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    a[..., 0], b[..., 1] = 1, 1
    assert cosine(a, b).item() == 0
    assert cosine(a, torch.zeros_like(a)).isnan().item()


def test_pictures_come_back_from_their_file(tmp_path: Path) -> None:
    model, x, y = linear()
    written = pictures({'odd/"name\n': model, "": model}, x, y, Threat(norm=inf, eps=0.1), count=3)
    save(written, tmp_path / "p.safetensors")
    read = load(tmp_path / "p.safetensors")
    assert read.names == written.names
    assert torch.equal(read.x, written.x)
    assert torch.equal(read.y, written.y)
    for part in ("adversarial", "gradients", "clean_prediction", "adversarial_prediction"):
        a, b = getattr(read, part), getattr(written, part)
        assert list(a) == list(b)
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    with pytest.raises(BadInput, match="does not exist"):
        load(path)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(BadInput, match="is not a pictures file of kdiga"):
        load(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(BadInput, match="is not a pictures file of kdiga"):
        load(path)
    save_file({"x": torch.zeros(1), "y": torch.zeros(1)}, path, {"names": '["a"]'})
    with pytest.raises(BadInput, match="is not a pictures file of kdiga"):
        load(path)
    save_file({"x": torch.zeros(2, 1, 3, 3), "y": torch.zeros(1, dtype=torch.int64)}, path, {"names": "[]"})
    with pytest.raises(BadInput, match=r"labels int64 \[m\]"):
        load(path)


def test_a_picture_has_its_own_type() -> None:
    assert isinstance(pictures({}, *linear()[1:], Threat(norm=inf, eps=0.1), count=2), Pictures)
