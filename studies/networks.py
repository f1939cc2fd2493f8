"""The five kinds of network that the studies of trust compare; each takes the channels of 32×32 images."""

from collections.abc import Callable

from torch import nn

from hydragrad.models import LeNet5


def _logistic(channels: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 1024, 10))


def _mlp(channels: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 1024, 64), nn.ReLU(), nn.Linear(64, 10))


def _smooth_lenet(channels: int) -> nn.Module:
    """LeNet-5 with GELU and average pooling."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 6, 5), nn.GELU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.GELU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(16, 120, 5), nn.GELU(), nn.Flatten()),
        *(nn.Linear(120, 84), nn.GELU(), nn.Linear(84, 10)),
    )


def _batch_norm(channels: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(channels, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10)),
    )


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "logistic": _logistic,
    "mlp": _mlp,
    "lenet5": lambda channels: LeNet5(channels=channels, classes=10),
    "lenet5-smooth": _smooth_lenet,
    "batch-norm": _batch_norm,
}
