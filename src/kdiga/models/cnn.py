"""A small convolutional network for digits and Fashion-MNIST, cheap enough to be attacked thousands of times on a CPU."""

from collections import OrderedDict

from torch import nn

from kdiga.models.activation import activation


def cnn(shape: tuple[int, int, int], classes: int, *, act: str = "relu", width: int = 24) -> nn.Module:
    """A small convolutional network for digits and Fashion-MNIST: three stages of two 3x3 convolutions with BatchNorm.

    Global average pooling and a linear head follow. Stages have width, 2 width and 4 width channels, rounded down to a multiple
    of 8 (what vector units like), at least 8. Stages two and three start with stride 2; so does the first where the image is 16
    or more in both directions, so that a 28x28 image costs 3.4 times as much as an 8x8 one, not 12 times. The weights therefore
    belong to an image size.
    """
    first, second, third = (max(8, n * width // 8 * 8) for n in (1, 2, 4))
    layers = OrderedDict(
        stage1=_stage(shape[0], first, 2 if min(shape[1:]) >= 16 else 1, act),
        stage2=_stage(first, second, 2, act),
        stage3=_stage(second, third, 2, act),
        pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        linear=nn.Linear(third, classes),
    )
    return nn.Sequential(layers)


def _stage(inputs: int, outputs: int, stride: int, act: str) -> nn.Sequential:
    down, same = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
    return nn.Sequential(down, nn.BatchNorm2d(outputs), activation(act), same, nn.BatchNorm2d(outputs), activation(act))
