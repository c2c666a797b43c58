"""ResNets with the same layers and names as those of torchvision.

The node does not import torchvision, because the import takes time and memory. Weights
on the meta device are not initialized, because torch would import a compiler for this.
Without these two imports, a role needs 2.7 instead of 3.5 s to import its libraries,
and 959 instead of 1,132 MB (docs/performance.md). A test checks that the networks equal
those of torchvision.

As in torchvision, the stride of a Bottleneck is in its second convolution. In the
original networks, it is in the first one.

Source:
    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
"""

from collections.abc import Sequence

from torch import Tensor, nn

WIDTHS = 64, 128, 256, 512
"""Number of channels inside the blocks of each stage. The output of a block has
`expansion` times as many."""


def convolution(before: int, after: int, side: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution with padding and without bias.

    Args:
        before: Number of input channels.
        after: Number of output channels.
        side: Side of the square kernel in pixels; odd.
        stride: Step of the kernel in pixels. The numbers of rows and columns are
            divided by the stride and rounded up.
    """
    return nn.Conv2d(before, after, side, stride, side // 2, bias=False)


def shortcut(before: int, after: int, stride: int) -> nn.Module | None:
    """Return a layer that maps the input of a block to the shape of the output.

    Return None if input and output have the same shape.
    """
    if stride == 1 and before == after:
        return None
    return nn.Sequential(convolution(before, after, 1, stride), nn.BatchNorm2d(after))


class BasicBlock(nn.Module):
    """Two convolutions of 3 x 3, with a shortcut around them."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = convolution(before, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(before, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, before, h, w) to (N, width, h / stride, w / stride).

        The quotients are rounded up.
        """
        around = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        result: Tensor = self.relu(x + around)
        return result


class Bottleneck(nn.Module):
    """Three convolutions with a shortcut around them.

    The first one changes the number of channels to `width`, and the last one to four
    times `width`.
    """

    expansion = 4

    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        after = width * self.expansion
        self.conv1 = convolution(before, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, after, 1)
        self.bn3 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(before, after, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, before, h, w) to (N, 4 * width, h / stride, w / stride).

        The quotients are rounded up.
        """
        around = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        result: Tensor = self.relu(x + around)
        return result


Block = type[BasicBlock] | type[Bottleneck]


def stage(
    block: Block, before: int, width: int, depth: int, stride: int
) -> nn.Sequential:
    """Return a sequence of `depth` blocks. Only the first one may change the shape.

    Args:
        block: The type of the blocks.
        before: Number of input channels.
        width: Number of channels inside a block. The output has `block.expansion` times
            as many.
        depth: Number of blocks.
        stride: Stride of the first block.
    """
    after = width * block.expansion
    others = [block(after, width) for _ in range(depth - 1)]
    return nn.Sequential(block(before, width, stride), *others)


class ResNet(nn.Module):
    """A ResNet: a convolution, four stages of blocks, pooling, and a linear layer.

    The initial weights are random.
    """

    def __init__(self, block: Block, depths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        first, second, third, fourth = (width * block.expansion for width in WIDTHS)
        self.layer1 = stage(block, 64, WIDTHS[0], depths[0], 1)
        self.layer2 = stage(block, first, WIDTHS[1], depths[1], 2)
        self.layer3 = stage(block, second, WIDTHS[2], depths[2], 2)
        self.layer4 = stage(block, third, WIDTHS[3], depths[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(fourth, classes)
        for each in self.modules():
            # Weights on the meta device have no data. To initialize them, torch would
            # import a compiler.
            if isinstance(each, nn.Conv2d) and not each.weight.is_meta:
                nn.init.kaiming_normal_(
                    each.weight, mode="fan_out", nonlinearity="relu"
                )

    def forward(self, image: Tensor) -> Tensor:
        """Map images, (N, 3, h, w), to logits, (N, classes)."""
        *convolutions, pool, linear = self.children()
        for each in convolutions:
            image = each(image)
        logits: Tensor = linear(pool(image).flatten(1))
        return logits


def resnet18(classes: int) -> ResNet:
    """Return a ResNet18 with random weights."""
    return ResNet(BasicBlock, (2, 2, 2, 2), classes)


def resnet34(classes: int) -> ResNet:
    """Return a ResNet34 with random weights."""
    return ResNet(BasicBlock, (3, 4, 6, 3), classes)


def resnet50(classes: int) -> ResNet:
    """Return a ResNet50 with random weights."""
    return ResNet(Bottleneck, (3, 4, 6, 3), classes)
