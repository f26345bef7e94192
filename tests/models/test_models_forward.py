"""What our networks compute, against torchvision's, and against the papers' equations written over the weights' names."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdiga.models import ModelInfo, build

State = dict[str, Tensor]


def body(spec: str) -> nn.Module:
    """A network whose BatchNorms are not the identity."""
    torch.manual_seed(2)
    network = build(ModelInfo(spec, 5, (3, 32, 32), (0.0,) * 3, (1.0,) * 3)).body
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            assert m.running_mean is not None
            assert m.running_var is not None
            for values, low, high in (
                (m.weight, 0.5, 1.5),
                (m.bias, -0.5, 0.5),
                (m.running_mean, -0.3, 0.3),
                (m.running_var, 0.5, 1.5),
            ):
                nn.init.uniform_(values, low, high)
    return network.eval()


def bn(s: State, name: str, x: Tensor) -> Tensor:
    return F.batch_norm(x, s[f"{name}.running_mean"], s[f"{name}.running_var"], s[f"{name}.weight"], s[f"{name}.bias"])


def conv(s: State, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    w = s[f"{name}.weight"]
    return F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2, groups=groups)


def linear(s: State, name: str, x: Tensor) -> Tensor:
    return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), s[f"{name}.weight"], s[f"{name}.bias"])


def wide_16(s: State, x: Tensor) -> Tensor:
    """Zagoruyko and Komodakis 2016, figure 1: pre-activated, the activated input of a widening block feeds its shortcut."""
    x = conv(s, "conv1", x)
    for stage in (1, 2, 3):
        for i in (0, 1):
            at, stride = f"block{stage}.layer.{i}", 2 if stage > 1 and i == 0 else 1
            a = F.relu(bn(s, f"{at}.bn1", x))
            y = conv(s, f"{at}.conv2", F.relu(bn(s, f"{at}.bn2", conv(s, f"{at}.conv1", a, stride))))
            x = y + (conv(s, f"{at}.convShortcut", a, stride) if i == 0 else x)
    return linear(s, "fc", F.relu(bn(s, "bn1", x)))


def preact(final_bn: bool, shortcut_of_activated: bool) -> Callable[[State, Tensor], Tensor]:
    """He et al. 2016, figure 4e, and the two details in which public codes differ."""

    def forward(s: State, x: Tensor) -> Tensor:
        x = conv(s, "conv1", x)
        for layer in (1, 2, 3, 4):
            for i in (0, 1):
                at, stride = f"layer{layer}.{i}", 2 if layer > 1 and i == 0 else 1
                a = F.relu(bn(s, f"{at}.bn1", x))
                y = conv(s, f"{at}.conv2", F.relu(bn(s, f"{at}.bn2", conv(s, f"{at}.conv1", a, stride))))
                x = y + (conv(s, f"{at}.shortcut.0", a if shortcut_of_activated else x, stride) if stride == 2 else x)
        return linear(s, "linear", F.relu(bn(s, "bn", x)) if final_bn else x)

    return forward


def mobile(s: State, x: Tensor) -> Tensor:
    """Sandler et al. 2018, table 2, with CIFAR's strides: halved before the blocks 3, 6 and 13 of 17 only."""
    widths = [16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320]
    x = F.relu(bn(s, "bn1", conv(s, "conv1", x)))
    for i, width in enumerate(widths):
        at, stride = f"layers.{i}", 2 if i in (3, 6, 13) else 1
        y = F.relu(bn(s, f"{at}.bn1", conv(s, f"{at}.conv1", x)))
        y = F.relu(bn(s, f"{at}.bn2", conv(s, f"{at}.conv2", y, stride, groups=y.shape[1])))
        y = bn(s, f"{at}.bn3", conv(s, f"{at}.conv3", y))
        if stride == 1:
            y = y + (x if x.shape[1] == width else bn(s, f"{at}.shortcut.1", conv(s, f"{at}.shortcut.0", x)))
        x = y
    return linear(s, "linear", F.relu(bn(s, "bn2", conv(s, "conv2", x))))


@pytest.mark.parametrize(
    ("spec", "reference"),
    [
        ("wrn-16-2", wide_16),
        ("preact-resnet-18", preact(True, True)),
        ("preact-resnet-18?bn_before_fc=false&out_shortcut=false", preact(False, False)),
        ("preact-resnet-18?bn_before_fc=false", preact(False, True)),
        ("mobilenet-v2", mobile),
    ],
)
def test_networks_compute_the_published_equations(spec: str, reference: Callable[[State, Tensor], Tensor]) -> None:
    network, x = body(spec), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        z = network(x)
        assert torch.allclose(z, reference(network.state_dict(), x), rtol=1e-4, atol=1e-4 * z.abs().max().item())


def test_resnet_18_is_torchvisions_with_the_cifar_stem() -> None:
    from torchvision.models import resnet18

    network, x = body("resnet-18"), torch.randn(2, 3, 32, 32)
    theirs = resnet18(num_classes=5)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    names = {k: k.replace("shortcut", "downsample").replace("linear", "fc") for k in network.state_dict()}
    theirs.load_state_dict({names[k]: v for k, v in network.state_dict().items()})
    with torch.no_grad():
        assert torch.allclose(network(x), theirs.eval()(x), atol=1e-4)


def test_cnn_shrinks_large_images_in_its_stem() -> None:
    sizes = {8: [8, 4, 2], 28: [14, 7, 4], 32: [16, 8, 4]}
    for side, expected in sizes.items():
        network = build(ModelInfo("cnn", 10, (1, side, side), (0.0,), (1.0,))).body
        seen: list[int] = []
        for stage in ("stage1", "stage2", "stage3"):
            network.get_submodule(stage).register_forward_hook(lambda _m, _x, y, seen=seen: seen.append(y.shape[-1]))
        network(torch.rand(2, 1, side, side))
        assert seen == expected


def test_softplus_changes_our_networks_too() -> None:
    torch.manual_seed(0)
    plain = build(ModelInfo("cnn", 10, (1, 8, 8), (0.0,), (1.0,))).eval()
    smooth = build(ModelInfo("cnn?act=softplus", 10, (1, 8, 8), (0.0,), (1.0,))).eval()
    smooth.load_state_dict(plain.state_dict())
    x = torch.rand(2, 1, 8, 8)
    assert not torch.allclose(plain(x), smooth(x))
