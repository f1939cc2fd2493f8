"""The protocol of everything that watches training steps."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from hydragrad.errors import StepError


class StepHandle:
    """What an observer yields for one step.

    Args:
        evaluate: Gives the recorded losses of a batch; None where an observer has none to give.
        observe: Is told the loop's own reduction of them; None where an observer watches none.

    Attributes:
        loss: The step's loss, where the loop sets it.
    """

    def __init__(
        self, evaluate: Callable[[Any], Tensor] | None = None, observe: Callable[[Tensor], None] | None = None
    ) -> None:
        self._evaluate, self._observe = evaluate, observe
        self.loss: float | None = None

    def losses(self, batch: Any) -> Tensor:
        """The recorded loss of the model on a batch; how the loop reduces it is read off its backward pass.

        Args:
            batch: The samples that `step` was told, as the data set and its collate function make a batch of them.

        Returns:
            Per-sample losses, shape (batch,).

        Raises:
            StepError: The block is over, this is its second call, there is no gradient, or the observer has no loss.
            LossError: Not one number a sample.
        """
        if self._evaluate is None:
            raise StepError("This observer has no loss to give. Call losses() of the Recorder's handle.")
        return self._evaluate(batch)

    def reduced(self, loss: Tensor) -> None:
        """Tell the loop's own mean (or sum, as `reduction` says) of the losses, where it does not call `losses`.

        What it is multiplied by before backward(), as for accumulation, is then read off the backward pass.

        Args:
            loss: One number, before it is scaled.

        Raises:
            StepError: The block is over, or there is no gradient.
        """
        if self._observe is not None:
            self._observe(loss)


class StepObserver(Protocol):
    """Watches a loop: a `step` block around every micro-batch, the last of which holds the optimizer's step."""

    def step(self, indices: Sequence[int] | Tensor, batch: Any = None) -> AbstractContextManager[StepHandle]:
        """Watch the micro-batch `train_set[i] for i in indices`."""
        ...
