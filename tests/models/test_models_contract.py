"""What every architecture must do, whatever it computes inside."""

import re
from functools import cache

import pytest
import torch
from torch import nn

from kdiga.losses import cross_entropy, input_gradient, norm
from kdiga.models import MODELS, Classifier, ModelInfo, build, parameter_count
from kdiga.types import Threat

DIGITS, FASHION, CIFAR = (1, 8, 8), (1, 28, 28), (3, 32, 32)
CASES = [
    ("cnn", DIGITS),
    ("cnn?width=12", FASHION),
    ("cnn", CIFAR),
    ("resnet-18", DIGITS),
    ("resnet-18", CIFAR),
    ("preact-resnet-18", DIGITS),
    ("preact-resnet-18?bn_before_fc=false&out_shortcut=false", DIGITS),
    ("wrn-10-1", FASHION),
    ("wrn-16-2?act=silu", CIFAR),
    ("mobilenet-v2", DIGITS),
    ("mobilenet-v2", FASHION),
    ("vit-tiny", DIGITS),
    ("vit-tiny?depth=2", FASHION),
    ("vit-tiny?depth=2&dim=48&heads=2", CIFAR),
    ("timm:test_vit?img_size=32&patch_size=8", CIFAR),
    ("timm:test_resnet", DIGITS),
    ("timm:mobilenetv3_small_050", CIFAR),  # its gates are hard sigmoids
    ("torchvision:resnet18", CIFAR),
]


def info(spec: str, shape: tuple[int, int, int], classes: int = 10) -> ModelInfo:
    return ModelInfo(spec, classes, shape, (0.4,) * shape[0], (0.3,) * shape[0])


@cache
def model(spec: str, shape: tuple[int, int, int]) -> Classifier:
    torch.manual_seed(0)
    return build(info(spec, shape)).eval()


def test_every_form_is_under_contract() -> None:
    forms = {form: re.compile(form.replace("D-W", r"\d+-\d+").replace("NAME", ".+")) for form in MODELS}
    assert {form for form, pattern in forms.items() for spec, _ in CASES if pattern.fullmatch(spec.partition("?")[0])} == set(
        MODELS
    )


@pytest.mark.parametrize(("spec", "shape"), CASES)
def test_logits_are_finite_deterministic_and_per_sample(spec: str, shape: tuple[int, int, int]) -> None:
    x = torch.rand(3, *shape)
    x[0], x[1] = 0, 1  # the ends of the range
    with torch.no_grad():
        z = model(spec, shape)(x)
        assert z.shape == (3, 10)
        assert z.isfinite().all()
        assert torch.equal(z, model(spec, shape)(x))
        assert torch.allclose(z[2:], model(spec, shape)(x[2:]), atol=1e-5)


@pytest.mark.parametrize(("spec", "shape"), CASES)
def test_gradient_reaches_the_input_and_is_differentiable_again(spec: str, shape: tuple[int, int, int]) -> None:
    m = model(spec, shape)
    x = torch.rand(2, *shape, requires_grad=True)
    g = input_gradient(cross_entropy(m(x), torch.tensor([0, 7])), x, create_graph=True)
    assert g.isfinite().all()
    assert (norm(g, 2.0) > 0).all()
    second = torch.autograd.grad(norm(g, 2.0).sum(), list(m.parameters()), allow_unused=True)
    assert all(s.isfinite().all() for s in second if s is not None)
    assert sum(float(s.abs().sum()) for s in second if s is not None) > 0


def test_the_second_derivative_is_right() -> None:
    # against a central difference along one direction of the weights, in float64
    torch.manual_seed(0)
    m = build(info("vit-tiny?depth=1&dim=16&heads=2", DIGITS)).eval().double()
    x, y = torch.rand(2, *DIGITS, dtype=torch.float64, requires_grad=True), torch.tensor([1, 2])

    def penalty() -> torch.Tensor:
        return norm(input_gradient(cross_entropy(m(x), y), x, create_graph=True), 2.0).sum()

    weight = m.body.get_parameter("blocks.0.attn.qkv.weight")
    direction = torch.randn_like(weight)
    slope = float((torch.autograd.grad(penalty(), weight)[0] * direction).sum())
    with torch.no_grad():
        values = []
        for step in (1e-5, -2e-5):
            weight.add_(step * direction)
            with torch.enable_grad():
                values.append(penalty().item())
    assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


@pytest.mark.parametrize(("spec", "shape"), CASES)
def test_no_module_works_in_place(spec: str, shape: tuple[int, int, int]) -> None:
    assert not [type(m).__name__ for m in model(spec, shape).modules() if getattr(m, "inplace", False)]


@pytest.mark.parametrize(
    "spec",
    ["cnn", "resnet-18", "preact-resnet-18", "wrn-10-1", "mobilenet-v2", "vit-tiny", "timm:test_vit?img_size=32&patch_size=8"],
)
def test_silu_leaves_no_other_activation(spec: str) -> None:
    kinds = [type(m) for m in build(info(f"{spec}{'&' if '?' in spec else '?'}act=silu", CIFAR)).modules()]
    assert nn.SiLU in kinds
    assert not {"ReLU", "ReLU6", "GELU"} & {kind.__name__ for kind in kinds}


@pytest.mark.parametrize("spec", ["timm:mobilenetv3_small_050", "torchvision:mobilenet_v3_small", "torchvision:resnet18"])
def test_silu_reaches_the_activations_of_other_libraries(spec: str) -> None:
    names = [type(m).__name__ for m in build(info(f"{spec}?act=softplus", CIFAR)).modules()]
    assert "Softplus" in names
    assert not {"ReLU", "Hardswish", "HardSwish"} & set(names)


# wrn-D-W, by hand: the formula of `wide` below. resnet-18: 1,728 + 128 (stem) + 147,968 + 525,568 + 2,099,712 + 8,393,728 + 5,130.
# preact-resnet-18: the same convolutions and head; BatchNorm before instead of after them, none on shortcuts.
COUNTS = [
    ("resnet-18", CIFAR, 10, 11_173_962),
    ("resnet-18", CIFAR, 100, 11_173_962 + 90 * 513),
    ("preact-resnet-18", CIFAR, 10, 11_172_170),
    ("preact-resnet-18?bn_before_fc=false", CIFAR, 10, 11_171_146),
    ("wrn-28-10", CIFAR, 10, 36_479_194),
    ("wrn-34-10", CIFAR, 10, 46_160_474),
    ("mobilenet-v2", CIFAR, 10, 2_296_922),
    ("cnn", DIGITS, 10, 162_562),
    ("cnn?width=12", DIGITS, 10, 39_474),
    ("timm:resnet18", (3, 224, 224), 1000, 11_689_512),  # as published
    ("torchvision:vit_b_16", (3, 224, 224), 1000, 86_567_656),  # as published
]


@pytest.mark.parametrize(("spec", "shape", "classes", "count"), COUNTS)
def test_parameter_counts(spec: str, shape: tuple[int, int, int], classes: int, count: int) -> None:
    with torch.device("meta"):
        assert parameter_count(build(info(spec, shape, classes))) == count


def wide(depth: int, width: int, classes: int) -> int:
    """Weights of wrn-depth-width for three channels: a stage's block has two BatchNorms (2 c each) and two 3x3 convolutions."""

    def stage(i: int, o: int) -> int:
        first = 2 * i + 9 * i * o + 2 * o + 9 * o * o + (i * o if i != o else 0)
        return first + ((depth - 4) // 6 - 1) * (4 * o + 18 * o * o)

    w = 16 * width
    return 27 * 16 + stage(16, w) + stage(w, 2 * w) + stage(2 * w, 4 * w) + 8 * w + (4 * w + 1) * classes


@pytest.mark.parametrize(("depth", "width", "classes"), [(28, 10, 10), (34, 10, 10), (10, 1, 10), (16, 8, 100)])
def test_wide_resnets_count_as_by_hand(depth: int, width: int, classes: int) -> None:
    with torch.device("meta"):
        assert parameter_count(build(info(f"wrn-{depth}-{width}", CIFAR, classes))) == wide(depth, width, classes)


def test_half_the_width_is_a_quarter_of_the_weights() -> None:
    teacher, student = (parameter_count(model(f"cnn?width={w}", DIGITS)) for w in (24, 12))
    assert student * 4 <= teacher


def test_fresh_weights_come_from_the_global_generator() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in build(info("cnn", DIGITS)).parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_a_built_model_trains_and_a_wide_resnet_starts_as_published() -> None:
    assert all(module.training for spec in ("wrn-10-4", "timm:test_resnet") for module in build(info(spec, CIFAR)).modules())
    m = build(info("wrn-10-4", CIFAR))
    w = m.body.get_parameter(
        "block3.layer.0.conv1.weight"
    )  # from 128 to 256 channels; He et al. 2015, eq. 14: variance 2 / (9 * 256)
    assert w.var().item() == pytest.approx(2 / (9 * 256), rel=0.02)
    assert (m.body.get_parameter("fc.bias") == 0).all()


def test_attacks_can_run_at_digits_size() -> None:
    from kdiga.inner import maximise, random_point

    x, y, threat = torch.rand(4, *DIGITS), torch.tensor([0, 1, 2, 3]), Threat.parse("linf", "8/255")
    m = model("cnn", DIGITS)
    u = maximise(lambda v: cross_entropy(m(v), y), x, threat, steps=3, step_size=0.01, start=random_point(x, threat))
    assert (cross_entropy(m(u), y) > cross_entropy(m(x), y)).all()
