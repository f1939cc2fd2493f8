"""Per-sample gradients by one vector-Jacobian product a sample: valid for any model.

The loss of a sample is differentiated inside its batch, so that whatever couples the samples (batch statistics) is
inside, as it was in training. A batch of one sample would be another function.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from hydragrad.derivatives.directional.forward_mode import differentiable_kernels
from hydragrad.derivatives.layout import Layout
from hydragrad.derivatives.loss_module import Batch, LossModule

SAMPLES_AT_ONCE = 8
"""Samples in one vectorised backward pass; every one holds gradients of its own."""


class Projection(Protocol):
    """A linear map of named gradients to columns."""

    @property
    def width(self) -> int:
        """Columns."""
        ...

    def rows(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Map named gradients, each (rows, *shape); missing ones are zero."""
        ...


def sample_gradients(
    problem: LossModule,
    layout: Layout,
    parameters: dict[str, Tensor],
    buffers: dict[str, Tensor],
    batch: Batch,
    positions: Sequence[int],
    *,
    projector: Projection | None = None,
    frozen: Collection[str] = (),
) -> tuple[Tensor, Tensor]:
    """Differentiate the losses of some samples of a batch.

    Args:
        problem: The private copy of model and loss.
        layout: The parameters to differentiate by.
        parameters: Values of all parameters.
        buffers: Values of all buffers.
        batch: The batch.
        positions: Which of its samples.
        projector: Projects the gradients, SAMPLES_AT_ONCE full ones at a time.
        frozen: Parameters whose gradients are zero, since they are not trained.

    Returns:
        Losses (batch,), and gradients (positions, columns).

    Cost: one forward pass, and one backward pass a sample.
    """
    width = layout.size if projector is None else projector.width
    with torch.enable_grad(), differentiable_kernels():
        weights = {name: parameters[name].detach().requires_grad_() for name in layout.names if name not in frozen}
        losses, _ = problem.at(parameters | weights, buffers, batch)
        if not weights:
            return losses.detach(), losses.new_zeros(len(positions), width)
        parts = [losses.new_zeros(0, width)]
        for start in range(0, len(positions), SAMPLES_AT_ONCE):
            chunk = positions[start : start + SAMPLES_AT_ONCE]
            gradients = _pulled_back(losses, list(weights.values()), chunk)
            named = dict(zip(weights, gradients, strict=True))
            if projector is None:
                row = losses.new_zeros(len(chunk), layout.size)
                for name, gradient in named.items():
                    row[:, layout.spans[name]] = gradient.reshape(len(chunk), -1)
                parts.append(row)
            else:
                parts.append(projector.rows(named))
    return losses.detach(), torch.cat([part.to(parts[-1]) for part in parts])


def _pulled_back(losses: Tensor, leaves: Sequence[Tensor], positions: Sequence[int]) -> list[Tensor]:
    """Gradients of single losses, a tensor (positions, *shape) for every leaf."""
    one_hot = losses.new_zeros(len(positions), len(losses))
    one_hot[range(len(positions)), list(positions)] = 1.0
    gradients: Sequence[Tensor | None]
    try:
        gradients = torch.autograd.grad(
            losses, leaves, one_hot, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    except RuntimeError:  # Some operation of the model has no batching rule.
        rows = [torch.autograd.grad(losses, leaves, row, retain_graph=True, allow_unused=True) for row in one_hot]
        gradients = [torch.stack(parts) if isinstance(parts[0], Tensor) else None for parts in zip(*rows, strict=True)]
    return [
        leaf.new_zeros(len(positions), *leaf.shape) if gradient is None else gradient.detach()
        for leaf, gradient in zip(leaves, gradients, strict=True)
    ]
