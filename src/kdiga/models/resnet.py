"""ResNet-18 in its CIFAR form (He et al. 2016, arXiv 1512.03385): a 3x3 stem with stride 1 and no max pooling.

Parameters are named as in the public CIFAR code bases (`layer1.0.conv1`, `layer2.0.shortcut.0`, `linear`), so their checkpoints
load.
"""

from collections.abc import Callable

from torch import Tensor, nn

from kdiga.models.activation import activation


def resnet18(shape: tuple[int, int, int], classes: int, *, act: str = "relu") -> nn.Module:
    """ResNet-18 for CIFAR: 11.17 million parameters with 3x32x32 images and 10 classes.

    Any image size; 32x32 becomes 4x4 before the pooling.
    """
    return ResNet(shape[0], classes, act)


class ResNet(nn.Module):
    """Four layers of two blocks."""

    def __init__(self, channels: int, classes: int, act: str) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int) -> nn.Module:
            return Block(inputs, outputs, stride, act)

        self.conv1, self.bn1, self.act = conv3x3(channels, 64), nn.BatchNorm2d(64), activation(act)
        self.layer1 = stack(block, 64, 64, count=2, stride=1)
        self.layer2 = stack(block, 64, 128, count=2, stride=2)
        self.layer3 = stack(block, 128, 256, count=2, stride=2)
        self.layer4 = stack(block, 256, 512, count=2, stride=2)
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class Block(nn.Module):
    """act(bn2(conv2(act(bn1(conv1(x))))) + shortcut(x)); the shortcut is a 1x1 convolution where the size changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, act: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.act = activation(act)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        out: Tensor = self.act(y + self.shortcut(x))
        return out


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size at stride 1, without bias: BatchNorm follows."""
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


def stack(block: Callable[[int, int, int], nn.Module], inputs: int, outputs: int, *, count: int, stride: int) -> nn.Sequential:
    """`count` blocks, the first of which changes channels and size."""
    return nn.Sequential(block(inputs, outputs, stride), *(block(outputs, outputs, 1) for _ in range(count - 1)))
