"""A step's data, fetched from the training set when they are first needed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hydragrad.derivatives import Batch
from hydragrad.errors import Unsupported
from hydragrad.replay import fetch
from hydragrad.replay.data import Collate, to_device


@dataclass(kw_only=True)
class StepBatch:
    """The batch of one step; calling it gives the data.

    Attributes:
        train_set: Where it comes from.
        indices: Its samples.
        data: What the loop passed, or None until it is fetched.
        batch_seed: Seed of random augmentation in the data set.
        seed: Seed of the step's forward pass.
        collate: Turns a list of items into a batch.
        device: Where the tensors are put.
        constants: Buffers before the step whose derivatives are not known.
    """

    train_set: Dataset[Any]
    indices: list[int]
    data: Any
    batch_seed: int
    seed: int
    collate: Collate | None
    device: torch.device
    constants: Mapping[str, Tensor] = field(default_factory=dict)

    def __call__(self) -> Batch:
        """The batch, on its device."""
        if self.data is None:
            self.data = fetch(
                self.train_set, self.indices, seed=self.batch_seed, collate=self.collate, device=self.device
            )
        return Batch(to_device(self.data, self.device), len(self.indices), self.seed)

    def require_constant_buffers(self, model: nn.Module) -> None:
        """Refuse buffers that the step changed in a way that exact tangents do not know.

        Raises:
            Unsupported: Names them.
        """
        moved = [name for name, value in self.constants.items() if not torch.equal(value, model.get_buffer(name))]
        if moved:
            raise Unsupported(
                f"The buffers {', '.join(moved)} update themselves during training in a way that is not BatchNorm's, "
                f"so their derivative is not known. Use curvature='none', which treats buffers as constants."
            )
