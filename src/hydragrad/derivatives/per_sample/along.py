"""Directional derivatives by one backward pass a sample: what reverse mode gives, for any model that trained.

Forward mode is another set of rules than training's: some operations have none, and hooks, custom functions and padding
rows may have another one than the backward pass. This route uses the backward pass alone.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from hydragrad.derivatives.directional.forward_mode import Directional
from hydragrad.derivatives.layout import Layout
from hydragrad.derivatives.loss_module import Batch, LossModule
from hydragrad.derivatives.per_sample.one_by_one import sample_gradients


class Along:
    """Products of named gradients with directions, as a projection whose columns are the directions.

    Args:
        layout: Lays out the parameters.
        directions: (Q, layout.size).
    """

    def __init__(self, layout: Layout, directions: Tensor) -> None:
        self._views = layout.views(directions)
        self.width = len(directions)

    def rows(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Multiply named gradients, each (rows, *shape); missing ones are zero. Returns (rows, Q)."""
        return torch.stack(
            [
                sum((gradient.flatten(1) @ self._views[name][q].flatten() for name, gradient in gradients.items()))  # type: ignore[misc]
                for q in range(self.width)
            ],
            dim=1,
        )


def directional_one_by_one(
    problem: LossModule,
    layout: Layout,
    parameters: dict[str, Tensor],
    buffers: dict[str, Tensor],
    batch: Batch,
    directions: Tensor,
    *,
    frozen: Collection[str] = (),
) -> Directional:
    """Differentiate all per-sample losses of a batch along Q directions, (Q, layout.size).

    Args:
        problem: The private copy of model and loss.
        layout: Lays out those parameters that `directions` refers to.
        parameters: Values of all parameters.
        buffers: Values of all buffers.
        batch: The batch.
        directions: (Q, layout.size).
        frozen: Parameters whose gradients are zero, since they are not trained.

    Cost: one forward pass and a backward pass a sample, for all directions.
    """
    losses, dots = sample_gradients(
        problem,
        layout,
        parameters,
        buffers,
        batch,
        range(batch.size),
        projector=Along(layout, directions),
        frozen=frozen,
    )
    return Directional(losses, dots.T, None, None)
