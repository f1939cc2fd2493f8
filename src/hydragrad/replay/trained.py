"""What is needed of a trained model where the steps that led to it are not: weights, loss and data."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import Dataset

from hydragrad.derivatives import PerSampleLoss
from hydragrad.replay.data import Collate
from hydragrad.runs.checkpoints import Checkpoint


class Trained(Protocol):
    """A recorded run, or checkpoints of a model trained elsewhere.

    Attributes:
        model: Of the architecture; its weights may be anything.
        loss: Per-sample losses.
        train_set: What it was trained on.
        collate_fn: Makes a batch of items in training; torch's default if None.
        device: Where it is evaluated.
    """

    model: nn.Module
    loss: PerSampleLoss
    train_set: Dataset[Any]
    collate_fn: Collate | None
    device: torch.device

    @property
    def final(self) -> Checkpoint:
        """The trained weights and buffers."""

    @property
    def digest(self) -> str:
        """Names these weights and no others."""

    def trained_model(self) -> nn.Module:
        """A copy of the model with them, in eval mode."""

    def collate(self, indices: Sequence[int]) -> Any:
        """The batch of some training samples."""


def samples_in(trained: Trained) -> int:
    """How many training samples there are."""
    return len(trained.train_set)  # type: ignore[arg-type]
