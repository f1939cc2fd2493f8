"""Every layer that has rules, with the options that make a difference, and an input for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

BATCH = 4


@dataclass(frozen=True)
class LayerCase:
    """A layer and its input, (BATCH, ...)."""

    build: Callable[[], Any]
    x: Tensor


def real(*shape: int) -> Tensor:
    """A batch of real numbers."""
    return torch.randn(BATCH, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def integers(*shape: int) -> Tensor:
    """A batch of integers below 7."""
    return torch.randint(7, (BATCH, *shape), generator=torch.Generator().manual_seed(1))


def scaled(layer: nn.Module) -> nn.Module:
    """Away from its initial ones and zeros."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def evaluating(layer: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) -> nn.Module:
    """Normalises by statistics of its own."""
    assert layer.running_mean is not None and layer.running_var is not None
    layer.running_mean += 0.3
    layer.running_var *= 1.7
    return scaled(layer).eval()


LAYERS = {
    "linear": LayerCase(lambda: nn.Linear(3, 5), real(3)),
    "linear over positions": LayerCase(lambda: nn.Linear(3, 5), real(2, 3)),
    "linear over a grid": LayerCase(lambda: nn.Linear(3, 5), real(2, 4, 3)),
    "linear without bias": LayerCase(lambda: nn.Linear(3, 5, bias=False), real(2, 3)),
    "conv1d": LayerCase(lambda: nn.Conv1d(3, 4, 3), real(3, 7)),
    "conv1d, stride and padding": LayerCase(lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1), real(2, 7)),
    "conv1d, a channel a group": LayerCase(lambda: nn.Conv1d(4, 8, 3, groups=4, padding="same"), real(4, 7)),
    "conv2d": LayerCase(lambda: nn.Conv2d(3, 4, 3), real(3, 6, 5)),
    "conv2d, groups": LayerCase(lambda: nn.Conv2d(4, 6, 3, groups=2), real(4, 6, 5)),
    "conv2d, stride and padding": LayerCase(lambda: nn.Conv2d(3, 4, 3, stride=2, padding=(1, 2)), real(3, 6, 5)),
    "conv2d, stride, padding and dilation": LayerCase(
        lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1, dilation=2), real(2, 8, 7)
    ),
    "conv2d, dilation": LayerCase(lambda: nn.Conv2d(3, 4, (2, 3), dilation=(2, 1)), real(3, 6, 5)),
    "conv2d, one position of the kernel": LayerCase(lambda: nn.Conv2d(3, 4, 1), real(3, 6, 5)),
    "conv2d, one position of the image": LayerCase(lambda: nn.Conv2d(3, 4, (6, 5)), real(3, 6, 5)),
    "conv2d, fewer channels out than in": LayerCase(
        lambda: nn.Conv2d(4, 2, (3, 2), padding=(0, 1), dilation=(1, 2)), real(4, 6, 5)
    ),
    "conv2d, same": LayerCase(lambda: nn.Conv2d(3, 4, (3, 5), padding="same"), real(3, 6, 5)),
    "conv2d, reflect": LayerCase(lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), real(3, 6, 5)),
    "conv2d, circular": LayerCase(lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), real(3, 6, 5)),
    "conv2d, replicate": LayerCase(lambda: nn.Conv2d(3, 4, 3, padding=(1, 0), padding_mode="replicate"), real(3, 6, 5)),
    "conv2d, everything": LayerCase(
        lambda: nn.Conv2d(4, 6, 2, stride=2, padding=1, dilation=2, groups=2, padding_mode="circular", bias=False),
        real(4, 7, 6),
    ),
    "conv3d": LayerCase(lambda: nn.Conv3d(2, 4, 2, groups=2, stride=(1, 2, 1), padding=1), real(2, 3, 4, 3)),
    "conv3d, one group": LayerCase(lambda: nn.Conv3d(1, 2, 2), real(1, 3, 4, 3)),
    "embedding": LayerCase(lambda: nn.Embedding(7, 3), integers(5)),
    "embedding of one": LayerCase(lambda: nn.Embedding(7, 3), integers()),
    "embedding of a grid": LayerCase(lambda: nn.Embedding(7, 3), integers(2, 3)),
    "embedding with padding": LayerCase(
        lambda: nn.Embedding(7, 3, padding_idx=2), torch.tensor([[2, 2, 1], [2, 0, 2]] * 2)
    ),
    "embedding with padding from the end": LayerCase(
        lambda: nn.Embedding(7, 3, padding_idx=-1), torch.tensor([[6, 6, 1], [6, 0, 6]] * 2)
    ),
    "layer norm": LayerCase(lambda: scaled(nn.LayerNorm(5)), real(5)),
    "layer norm over positions": LayerCase(lambda: scaled(nn.LayerNorm(5, eps=0.1)), real(3, 5)),
    "layer norm of planes": LayerCase(lambda: scaled(nn.LayerNorm((3, 5))), real(2, 3, 5)),
    "layer norm without bias": LayerCase(lambda: scaled(nn.LayerNorm(5, bias=False)), real(3, 5)),
    "batch norm in eval mode": LayerCase(lambda: evaluating(nn.BatchNorm1d(5)), real(5)),
    "batch norm over positions": LayerCase(lambda: evaluating(nn.BatchNorm1d(5, eps=0.1)), real(5, 3)),
    "batch norm of images": LayerCase(lambda: evaluating(nn.BatchNorm2d(3)), real(3, 4, 2)),
    "batch norm of volumes": LayerCase(lambda: evaluating(nn.BatchNorm3d(2)), real(2, 3, 4, 2)),
}


class PerSample(nn.Module):
    """A layer with something nonlinear behind it; losses (batch,)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).tanh().square().flatten(1).sum(1)


def gradients_by_autograd(losses: Tensor, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of single losses, (batch, *shape) a parameter."""
    rows = [torch.autograd.grad(loss, list(named.values()), retain_graph=True) for loss in losses]
    return {name: torch.stack([row[index] for row in rows]) for index, name in enumerate(named)}
