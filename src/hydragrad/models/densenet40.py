"""DenseNet-BC of depth 40 for 32×32 images."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROWTH = 12
BLOCKS = 3
LAYERS_PER_BLOCK = 6
REDUCTION = 0.5


class DenseNet40(nn.Module):
    """DenseNet-BC-40: three dense blocks of six bottlenecks, growth 12; transitions halve the channels.

    The forward takes float (batch, channels, 32, 32) and returns logits (batch, classes).
    176,122 parameters with 3 channels and 10 classes; 175,690 with 1 channel. No dropout.

    Args:
        channels: Channels of the images.
        classes: Number of logits.

    Source: Huang et al. 2017 (DenseNet-BC), convolutions initialised as in He et al. 2015, fan-out.
    """

    def __init__(self, *, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        width = 2 * GROWTH
        stages: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Conv2d(channels, width, 3, padding=1, bias=False))
        for block in range(1, BLOCKS + 1):
            stages[f"block{block}"] = _dense_block(width)
            width += LAYERS_PER_BLOCK * GROWTH
            if block < BLOCKS:
                stages[f"transition{block}"] = _Transition(width, int(width * REDUCTION))
                width = int(width * REDUCTION)
        self.features = nn.Sequential(stages)
        self.norm = nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (batch, classes)."""
        pooled = F.relu(self.norm(self.features(images))).mean((2, 3))
        logits: Tensor = self.classifier(pooled)
        return logits


class _Bottleneck(nn.Module):
    """Appends GROWTH channels, through a 1×1 convolution to 4·GROWTH and a 3×3 one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, 4 * GROWTH, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * GROWTH)
        self.conv2 = nn.Conv2d(4 * GROWTH, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(F.relu(self.norm1(x)))
        new = self.conv2(F.relu(self.norm2(new)))
        return torch.cat([x, new], dim=1)


class _Transition(nn.Module):
    """Reduces the channels with a 1×1 convolution and halves height and width."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


def _dense_block(width: int) -> nn.Sequential:
    return nn.Sequential(*(_Bottleneck(width + layer * GROWTH) for layer in range(LAYERS_PER_BLOCK)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
