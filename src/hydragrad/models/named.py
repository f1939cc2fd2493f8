"""The reference models by the names that the command line uses."""

from collections.abc import Callable

from torch import nn

from hydragrad.errors import UnknownName
from hydragrad.models.densenet40 import DenseNet40
from hydragrad.models.gpt import GPT
from hydragrad.models.lenet5 import LeNet5
from hydragrad.models.mobilenetv2 import MobileNetV2

MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet5": LeNet5,
    "densenet40": DenseNet40,
    "mobilenetv2": MobileNetV2,
}
"""Of images."""

TEXT_MODELS: dict[str, Callable[..., nn.Module]] = {"gpt": GPT}
"""Of sequences of tokens."""


def build(name: str, *, channels: int, classes: int) -> nn.Module:
    """Build a reference model for images, its weights initialised from torch's global generator.

    Args:
        name: A key of `MODELS`.
        channels: Channels of the images, float32 of shape (batch, channels, 32, 32).
        classes: Number of classes: the output is float32 of shape (batch, classes).

    Raises:
        UnknownName: `name` is not a key of `MODELS`.
    """
    if name not in MODELS:
        raise UnknownName(f"The model must be one of {', '.join(MODELS)}, got {name!r}.")
    return MODELS[name](channels=channels, classes=classes)
