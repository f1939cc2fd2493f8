"""The protocol of everything that watches training steps."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor


class StepHandle:
    """What an observer yields for one step.

    Attributes:
        loss: The step's loss, where the loop sets it.
    """

    loss: float | None = None


class StepObserver(Protocol):
    """Watches a loop, one `step` block around exactly one optimizer step."""

    def step(self, indices: Sequence[int] | Tensor, batch: Any = None) -> AbstractContextManager[StepHandle]:
        """Watch the step that trains on `train_set[i] for i in indices`."""
        ...
