"""The protocol of everything that watches training steps."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor


class StepHandle:
    """What an observer hands out for the time of one step; loops that know the loss may tell it."""

    loss: float | None = None


class StepObserver(Protocol):
    """Watches a loop, one `step` block around exactly one optimizer step."""

    def step(self, indices: Sequence[int] | Tensor, batch: Any = None) -> AbstractContextManager[StepHandle]:
        """Watch the step that trains on `train_set[i] for i in indices`."""
        ...


class Indices(list[int]):
    """The sample indices of a batch, with what is needed to draw the same batch again.

    Attributes:
        batch_seed: Seed of random augmentation in the data set's `__getitem__`, if the batch was drawn with one.
        sampler: Where the loader stood before this batch.
    """

    batch_seed: int | None = None
    sampler: dict[str, Any] | None = None
