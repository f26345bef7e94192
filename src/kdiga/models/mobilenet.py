"""MobileNetV2 in its CIFAR form (Sandler et al. 2018, arXiv 1801.04381): stride 1 in the stem and in the second stage.

Parameters are named as in the public CIFAR code bases (`layers.0.conv1`, `linear`). As there, and unlike the paper, the
activation is ReLU, not ReLU6, and blocks with stride 1 that change the channels have a 1x1 shortcut.
"""

from torch import Tensor, nn

from kdiga.models.activation import activation

STAGES = (  # expansion, channels, blocks, stride of the first block
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(shape: tuple[int, int, int], classes: int, *, act: str = "relu") -> nn.Module:
    """MobileNetV2 for CIFAR: 2.30 million parameters with 3x32x32 images and 10 classes.

    Any image size; 32x32 becomes 4x4 before the pooling.
    """
    return MobileNetV2(shape[0], classes, act)


class MobileNetV2(nn.Module):
    """A stem, seventeen inverted residuals, a 1x1 convolution to 1280 channels."""

    def __init__(self, channels: int, classes: int, act: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32)
        blocks, inputs = [], 32
        for expansion, outputs, count, stride in STAGES:
            for i in range(count):
                blocks.append(InvertedResidual(inputs, outputs, expansion, stride if i == 0 else 1, act))
                inputs = outputs
        self.layers = nn.Sequential(*blocks)
        self.conv2, self.bn2 = nn.Conv2d(inputs, 1280, 1, bias=False), nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, classes)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.act(self.bn1(self.conv1(x))))
        x = self.act(self.bn2(self.conv2(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, 3x3 depthwise, 1x1 down without activation; a shortcut where the stride is 1."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, act: str) -> None:
        super().__init__()
        wide = expansion * inputs
        self.conv1, self.bn1 = nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.conv2, self.bn2 = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide)
        self.conv3, self.bn3 = nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.act = activation(act)
        self.residual = stride == 1
        self.shortcut = nn.Sequential()
        if self.residual and inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn2(self.conv2(self.act(self.bn1(self.conv1(x))))))
        out: Tensor = self.bn3(self.conv3(y))
        return out + self.shortcut(x) if self.residual else out
