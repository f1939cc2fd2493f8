"""The gradient of a weighted sum of losses by one backward pass: what per-sample gradients must add up to."""

from collections.abc import Collection

import torch
from torch import Tensor

from hydragrad.derivatives.directional.forward_mode import differentiable_kernels
from hydragrad.derivatives.layout import Layout
from hydragrad.derivatives.loss_module import Batch, LossModule


def weighted_gradient(
    problem: LossModule,
    layout: Layout,
    parameters: dict[str, Tensor],
    buffers: dict[str, Tensor],
    batch: Batch,
    weights: Tensor,
    *,
    frozen: Collection[str] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Differentiate a weighted sum of a batch's losses: (layout.size,), and the buffers after the forward pass.

    Args:
        problem: The private copy of model and loss.
        layout: The parameters to differentiate by.
        parameters: Values of all parameters.
        buffers: Values of all buffers.
        batch: The batch.
        weights: Of the losses, (batch,).
        frozen: Parameters whose gradients are zero, since they are not trained.

    Cost: one forward and one backward pass.
    """
    with torch.enable_grad(), differentiable_kernels():
        leaves = {name: parameters[name].detach().requires_grad_() for name in layout.names if name not in frozen}
        losses, after = problem.at(parameters | leaves, buffers, batch)
        gradients = torch.autograd.grad(losses, list(leaves.values()), weights.to(losses), allow_unused=True)
    buffers = {name: value.detach() for name, value in after.items()}
    return layout.flatten(dict(zip(leaves, gradients, strict=True)), weights), buffers
