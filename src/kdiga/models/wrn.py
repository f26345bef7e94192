"""Wide residual networks (Zagoruyko and Komodakis 2016, arXiv 1605.07146), the usual robust teachers on CIFAR.

Parameters are named as in TRADES and RobustBench (`block1.layer.0.bn1`, `convShortcut`, `fc`), so their checkpoints load. The
unused `sub_block1` of TRADES is not built; `load` passes over its weights.
"""

from torch import Tensor, nn

from kdiga.errors import BadInput
from kdiga.models.activation import activation
from kdiga.models.resnet import conv3x3, stack


def wide_resnet(shape: tuple[int, int, int], classes: int, *, depth: int, width: int, act: str = "relu") -> nn.Module:
    """Wide ResNet of depth D = 6 n + 4 and width W, for example wrn-28-10 (36.5 million parameters) or wrn-34-10 (46.2 million).

    There are n blocks in each of three stages. Raises BadInput for another depth. No dropout, as in the robust models.
    """
    if depth < 10 or depth % 6 != 4:
        near = 6 * max(1, round((depth - 4) / 6)) + 4
        raise BadInput(f"wrn-{depth}-{width}: the depth must be 6 n + 4 (10, 16, 22, 28, 34 ...), for example wrn-{near}-{width}")
    return WideResNet(shape[0], classes, depth, width, act)


class WideResNet(nn.Module):
    """Three stages with 16, 32 and 64 times `width` channels, pre-activated."""

    def __init__(self, channels: int, classes: int, depth: int, width: int, act: str) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, 16)
        count = (depth - 4) // 6
        self.block1 = Stage(16, 16 * width, count, 1, act)
        self.block2 = Stage(16 * width, 32 * width, count, 2, act)
        self.block3 = Stage(32 * width, 64 * width, count, 2, act)
        self.bn1, self.act = nn.BatchNorm2d(64 * width), activation(act)
        self.fc = nn.Linear(64 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        logits: Tensor = self.fc(self.act(self.bn1(x)).mean((2, 3)))
        return logits


class Stage(nn.Module):
    """A stack of blocks under the name that published checkpoints give it."""

    def __init__(self, inputs: int, outputs: int, count: int, stride: int, act: str) -> None:
        super().__init__()
        self.layer = stack(lambda i, o, s: WideBlock(i, o, s, act), inputs, outputs, count=count, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideBlock(nn.Module):
    """conv2(act(bn2(conv1(a)))) + shortcut, with a = act(bn1(x)); the shortcut is x, or 1x1 of a where the channels change."""

    def __init__(self, inputs: int, outputs: int, stride: int, act: str) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv3x3(inputs, outputs, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv3x3(outputs, outputs)
        self.act = activation(act)
        # Published checkpoints know a shortcut only where the channels change, which in WRN-D-1 the first stage does not.
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        a = self.act(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(a)
        out: Tensor = self.conv2(self.act(self.bn2(self.conv1(a)))) + shortcut
        return out
