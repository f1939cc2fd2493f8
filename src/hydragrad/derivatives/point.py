"""The point of a run at which one step is differentiated."""

from typing import NamedTuple

from torch import Tensor

from hydragrad.derivatives.loss_module import Batch


class Point(NamedTuple):
    """Where to differentiate.

    Attributes:
        parameters: Values of all parameters.
        buffers: Values of all buffers.
        batch: The batch.
        divisor: The step's loss is the sum of the per-sample losses over this number.
        loss_weights: The per-sample losses are multiplied by these first, (batch,); None where all are 1.
    """

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    batch: Batch
    divisor: float
    loss_weights: Tensor | None = None

    def total(self, losses: Tensor) -> Tensor:
        """The batch's weighted sum of losses, before the divisor."""
        return losses.sum() if self.loss_weights is None else (losses * self.loss_weights).sum()
