"""MobileNetV2, width 1, with the strides of 32×32 images."""

from typing import NamedTuple

from torch import Tensor, nn


class _Stage(NamedTuple):
    expansion: int
    channels: int
    repeats: int
    stride: int


# Two of the five halvings of the ImageNet network (in the stem and in the second stage) are left out, so that
# 32×32 images become 4×4 features. Strides have no parameters.
STAGES = (
    _Stage(1, 16, 1, 1),
    _Stage(6, 24, 2, 1),
    _Stage(6, 32, 3, 2),
    _Stage(6, 64, 4, 2),
    _Stage(6, 96, 3, 1),
    _Stage(6, 160, 3, 2),
    _Stage(6, 320, 1, 1),
)
STEM_CHANNELS = 32
LAST_CHANNELS = 1280


class MobileNetV2(nn.Module):
    """MobileNetV2 of width 1: inverted residual blocks with linear bottlenecks.

    The forward takes float (batch, channels, 32, 32) and returns logits (batch, classes).
    2,236,682 parameters with 3 channels and 10 classes; 2,236,106 with 1 channel. No dropout.

    Args:
        channels: Channels of the images.
        classes: Number of logits.

    Source: Sandler et al. 2018, table 2; convolutions initialised as in He et al. 2015, fan-out.
    """

    def __init__(self, *, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(channels, STEM_CHANNELS, 3)]
        width = STEM_CHANNELS
        for stage in STAGES:
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                layers.append(_InvertedResidual(width, stage.channels, stage.expansion, stride))
                width = stage.channels
        layers.append(_convolution(width, LAST_CHANNELS, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(LAST_CHANNELS, classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (batch, classes)."""
        pooled = self.features(images).mean((2, 3))
        logits: Tensor = self.classifier(pooled)
        return logits


class _InvertedResidual(nn.Module):
    """Expands, convolves each channel separately, projects linearly; adds the input where the shapes are equal."""

    def __init__(self, width: int, out: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = width * expansion
        expand = [_convolution(width, hidden, 1)] if expansion > 1 else []
        self.residual = stride == 1 and width == out
        self.body = nn.Sequential(
            *expand,
            _convolution(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.body(x)
        return x + projected if self.residual else projected


def _convolution(width: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, out, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU6(),
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
