"""Pre-activation ResNet-18 in its CIFAR form (He et al. 2016, arXiv 1603.05027).

Parameters are named as in the public CIFAR code bases and RobustBench. These differ in two details, which are options here.
"""

from torch import Tensor, nn

from kdiga.models.activation import activation
from kdiga.models.resnet import conv3x3, stack


def preact_resnet18(
    shape: tuple[int, int, int], classes: int, *, act: str = "relu", bn_before_fc: bool = True, out_shortcut: bool = True
) -> nn.Module:
    """Pre-activation ResNet-18 for CIFAR: 11.17 million parameters with 3x32x32 images and 10 classes.

    The options carry RobustBench's names. bn_before_fc: BatchNorm and activation before the pooling, as in the paper.
    out_shortcut: the 1x1 shortcuts read the activated input, as in the paper. The defaults fit Rice et al. 2020 and Addepalli et
    al. 2021 in RobustBench; kuangliu's code has bn_before_fc=false, and Wong et al. 2020 there has both false. Weights do not
    tell which out_shortcut they were trained with.
    """
    return PreActResNet(shape[0], classes, act, bn_before_fc, out_shortcut)


class PreActResNet(nn.Module):
    """Four layers of two blocks."""

    def __init__(self, channels: int, classes: int, act: str, bn_before_fc: bool, out_shortcut: bool) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int) -> nn.Module:
            return PreActBlock(inputs, outputs, stride, act, out_shortcut)

        self.conv1 = conv3x3(channels, 64)
        self.layer1 = stack(block, 64, 64, count=2, stride=1)
        self.layer2 = stack(block, 64, 128, count=2, stride=2)
        self.layer3 = stack(block, 128, 256, count=2, stride=2)
        self.layer4 = stack(block, 256, 512, count=2, stride=2)
        self.bn = nn.BatchNorm2d(512) if bn_before_fc else nn.Identity()
        self.act = activation(act) if bn_before_fc else nn.Identity()
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        logits: Tensor = self.linear(self.act(self.bn(x)).mean((2, 3)))
        return logits


class PreActBlock(nn.Module):
    """conv2(act(bn2(conv1(a)))) + shortcut, with a = act(bn1(x)); the shortcut is x, or 1x1 where the size changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, act: str, out_shortcut: bool) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv3x3(inputs, outputs, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv3x3(outputs, outputs)
        self.act = activation(act)
        projects = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False)) if projects else nn.Sequential()
        self.reads_activated = projects and out_shortcut

    def forward(self, x: Tensor) -> Tensor:
        a = self.act(self.bn1(x))
        shortcut = self.shortcut(a if self.reads_activated else x)
        out: Tensor = self.conv2(self.act(self.bn2(self.conv1(a)))) + shortcut
        return out
