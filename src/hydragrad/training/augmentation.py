"""Reproducible random augmentation: drawn inside the step, from the step's own seed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hydragrad.derivatives import PerSampleLoss


def augmented(loss: PerSampleLoss, transform: Callable[[Any], Any]) -> PerSampleLoss:
    """Wrap a loss so that its batch is transformed at random first, in training mode only.

    Args:
        loss: Per-sample loss.
        transform: `transform(batch)` returns the batch to train on. It draws from torch's global generator, which
            the Recorder seeds at every step and the replay seeds in the same way.
    """

    def with_augmentation(model: Any, batch: Any) -> Tensor:
        return loss(model, transform(batch) if model.training else batch)

    return with_augmentation


def random_flip(images: Tensor) -> Tensor:
    """Mirror each image (batch, channels, height, width) left to right with probability one half."""
    mirrored = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def random_crop(images: Tensor, padding: int = 4) -> Tensor:
    """Shift each image (batch, channels, height, width) by up to `padding` pixels in each direction; pad with zeros."""
    size, height, width = len(images), images.shape[-2], images.shape[-1]
    padded = torch.nn.functional.pad(images, [padding] * 4)
    down, right = torch.randint(2 * padding + 1, (2, size), device=images.device)
    rows = (down[:, None] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (right[:, None] + torch.arange(width, device=images.device))[:, None, None, :]
    samples = torch.arange(size, device=images.device)[:, None, None, None]
    channels = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[samples, channels, rows, columns]
