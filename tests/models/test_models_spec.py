"""Specs: how names and options are read, and what is said about wrong ones."""

import pytest
import torch
from torch import nn

from kdiga.errors import BadInput
from kdiga.models import Classifier, ModelInfo, build
from kdiga.models.activation import swap_activations
from kdiga.models.build import join, split
from kdiga.models.second_order import allow_double_backward
from kdiga.models.zoo import timm_model

CIFAR = (3, 32, 32)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet18", "unknown model 'resnet18': did you mean 'resnet-18'.*wrn-D-W"),
        ("wrn-28", "did you mean 'wrn-D-W'"),
        ("wrn-28-x", "unknown model 'wrn-28-x'"),
        ("wrn-27-10", r"depth must be 6 n \+ 4 .*wrn-28-10"),
        ("wrn-4-10", "for example wrn-10-10"),
        ("wrn-10-1?depth=16", "no option 'depth': accepted: act"),
        ("wrn-6000004-1", "depth is 6000004, use 1 to 4096"),
        ("cnn?widht=12", "cnn has no option 'widht': did you mean 'width'.*act, width"),
        ("cnn?width=wide", "width is 'wide': int expected"),
        ("cnn?width=0", "width is 0, use 1 to 4096"),
        ("cnn?width", "'width' is not one new option=value"),
        ("cnn?width=8&width=9", "'width=9' is not one new option=value"),
        ("cnn?act=rleu", "unknown activation 'rleu': did you mean 'relu'"),
        ("vit-tiny?patch=5", "patches of 5 do not tile an image of 32x32"),
        ("vit-tiny?heads=5", "5 heads do not divide dim 192"),
        ("timm:resnet181", "timm has no model 'resnet181': did you mean resnet18"),
        ("timm:resnet18?img_size=32", "timm:resnet18 cannot be built: .*img_size"),
        ("timm:resnet18?pretrained=maybe", "pretrained is 'maybe': bool expected"),
        ("timm:vit_tiny_patch16_224", r"does not take images of 3x32x32: Input height \(32\) .*img_size="),
        ("torchvision:resnet19", "torchvision has no model 'resnet19': did you mean resnet18"),
        ("torchvision:fcn_resnet50", "torchvision has no model 'fcn_resnet50'"),
        ("torchvision:inception_v3?act=silu", "has no activation modules, so act=silu cannot be honoured"),
    ],
)
def test_a_wrong_spec_says_what_is_right(spec: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(ModelInfo(spec, 10, CIFAR, (0.0,) * 3, (1.0,) * 3))


def test_torchvision_takes_colour_only() -> None:
    with pytest.raises(BadInput, match="takes images with 3 channels, not 1"):
        build(ModelInfo("torchvision:resnet18", 10, (1, 32, 32), (0.0,), (1.0,)))


def test_split_and_join_are_inverse() -> None:
    for spec in ("cnn", "timm:vit?img_size=32&patch_size=4", "a/b.pt?arch=wrn-10-1&mean=0.5,0.4,0.3"):
        assert join(*split(spec)) == spec


def test_options_reach_the_network() -> None:
    body = build(ModelInfo("vit-tiny?patch=8&dim=32&depth=3&heads=4", 10, CIFAR, (0.0,) * 3, (1.0,) * 3)).body
    assert body.get_parameter("pos_embed").shape == (1, 1 + 4 * 4, 32)
    assert len(body.get_submodule("blocks")._modules) == 3
    assert body.get_parameter("blocks.0.attn.qkv.weight").shape == (96, 32)


def test_swapping_leaves_gates_alone_and_keeps_shared_places() -> None:
    shared = nn.ReLU()
    net = nn.Sequential(shared, shared, nn.Sequential(shared, nn.Sigmoid()), nn.Tanh())
    swap_activations(net, "silu", "net")
    assert [type(m).__name__ for m in net.modules() if not list(m.children())] == ["SiLU", "SiLU", "SiLU", "Sigmoid", "Tanh"]


def test_double_backward_is_allowed_without_changing_the_outputs() -> None:
    gate, attention = nn.Sequential(nn.Hardsigmoid()), nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.linspace(-5, 5, 64).reshape(2, 4, 8).requires_grad_()
    before = gate(x), attention(x, x, x, need_weights=False)[0]
    allow_double_backward(gate)
    allow_double_backward(attention)
    after = gate(x), attention(x, x, x, need_weights=False)[0]
    for old, new in zip(before, after, strict=True):
        assert torch.allclose(old, new, atol=1e-6)
    for out in after:  # the gate's second derivative is 0, the attention's is not: neither may raise
        g = torch.autograd.grad((out**2).sum(), x, create_graph=True)[0]
        assert torch.autograd.grad(g.square().sum(), x)[0].abs().sum() > 0


def test_a_model_that_is_no_classifier_is_refused() -> None:
    with pytest.raises(BadInput, match="timm:test_vit is not a classifier"):
        timm_model(CIFAR, 0, name="test_vit", img_size=32, patch_size=8)


def test_normalisation_is_inside_in_closed_form() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 3, 5))
    mean, std, shift = (0.2, 0.7), (0.5, 0.25), 0.1
    x = torch.rand(4, 2, 3, 3)
    z = Classifier(ModelInfo("linear", 5, (2, 3, 3), mean, std), body)(x)
    moved = Classifier(ModelInfo("linear", 5, (2, 3, 3), (mean[0] + shift, mean[1]), std), body)(x)
    linear = body[1]
    assert isinstance(linear, nn.Linear)
    assert torch.allclose(moved, z - shift / std[0] * linear.weight[:, :9].sum(1), atol=1e-6)
    by_hand = torch.cat([(x[:, 0] - 0.2) / 0.5, (x[:, 1] - 0.7) / 0.25], 1).flatten(1) @ linear.weight.T + linear.bias
    assert torch.allclose(z, by_hand, atol=1e-6)


def test_one_channel_is_not_broadcast_to_three() -> None:
    model = build(ModelInfo("cnn", 10, CIFAR, (0.5,) * 3, (0.5,) * 3))
    with pytest.raises(BadInput, match="images with 1 channels were given to cnn, which takes 3"):
        model(torch.rand(2, 1, 32, 32))


@pytest.mark.parametrize(
    ("classes", "shape", "mean", "std", "message"),
    [
        (1, CIFAR, (0.0,) * 3, (1.0,) * 3, "1 classes are not supported"),
        (10, (3, 0, 32), (0.0,) * 3, (1.0,) * 3, "shape 3x0x32 is not supported"),
        (10, CIFAR, (0.0,), (1.0,) * 3, "3 channels need as many means and stds, got 1 and 3"),
        (10, CIFAR, (0.0,) * 3, (1.0, 0.0, 1.0), "std above 0"),
        (10, CIFAR, (float("nan"),) * 3, (1.0,) * 3, "must be finite"),
    ],
)
def test_impossible_sizes_are_refused(
    classes: int, shape: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        ModelInfo("cnn", classes, shape, mean, std)
