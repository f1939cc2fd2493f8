"""The protocol of everything that watches training steps."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class StepHandle:
    """What an observer hands out for the time of one step; loops that know the loss may tell it."""

    loss: float | None = None


class StepObserver(Protocol):
    """Watches a loop, one `step` block around exactly one optimizer step."""

    def step(self, indices: Sequence[int] | Tensor, batch: Any = None) -> AbstractContextManager[StepHandle]:
        """Watch the step that trains on `train_set[i] for i in indices`."""
        ...


@dataclass
class Epoch:
    """One pass over a loader.

    Attributes:
        generators: The loader's own generators.
        over: Set once the last batch has been used.
    """

    generators: dict[str, torch.Generator]
    over: bool = False

    def place(self, sampler: dict[str, Any]) -> dict[str, Any]:
        """Where the loader stands after the batch that stood at `sampler`."""
        if self.over:
            return {name: generator.get_state() for name, generator in self.generators.items()}
        return sampler | {"position": sampler["position"] + 1}


class Indices(list[int]):
    """The sample indices of a batch, with what is needed to draw the same batch again.

    Attributes:
        batch_seed: Seed of random augmentation in the data set's `__getitem__`, if the batch was drawn with one.
        sampler: Where the loader stood before this batch.
        epoch: The pass over the loader that the batch belongs to.
    """

    batch_seed: int | None = None
    sampler: dict[str, Any] | None = None
    epoch: Epoch | None = None
