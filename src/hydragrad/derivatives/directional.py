"""Directional derivatives of all per-sample losses of a batch, by forward mode: valid for any model.

The Jacobian-vector product of the losses along G gives <G, gradient of loss i> for every sample i, with
whatever couples the samples (batch statistics) inside. No per-sample gradient is formed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hydragrad.derivatives.layout import Layout
from hydragrad.derivatives.loss_module import Batch, LossModule
from hydragrad.derivatives.one_call import capture_output


class Directional(NamedTuple):
    """Losses and their derivatives along Q directions.

    Attributes:
        losses: (batch,).
        losses_dot: (Q, batch).
        output: What the model's one call returned, where it was asked for.
        output_dot: Its derivatives, with a leading Q.
    """

    losses: Tensor
    losses_dot: Tensor
    output: Tensor | None
    output_dot: Tensor | None


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Select kernels that have a forward-mode rule: the fused attention kernels have none."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def directional_derivatives(
    problem: LossModule,
    layout: Layout,
    parameters: dict[str, Tensor],
    buffers: dict[str, Tensor],
    batch: Batch,
    directions: Tensor,
    *,
    with_output: bool = False,
) -> Directional:
    """Differentiate all per-sample losses of a batch along Q directions.

    Args:
        problem: The private copy of model and loss.
        layout: Lays out those parameters that `directions` speaks of.
        parameters: Values of all parameters.
        buffers: Values of all buffers.
        batch: The batch.
        directions: (Q, layout.size).
        with_output: Also return the model's output and its derivatives; needs one model call in the loss.

    Cost: one forward pass and, a direction, two products a layer.
    """
    rows = []
    for direction in directions:
        with torch.no_grad(), differentiable_kernels(), forward_mode.dual_level():
            dual = dual_parameters(layout, parameters, direction)
            with capture_output(problem, required=with_output) as captured:
                losses, _ = problem.at(dual, buffers, batch)
            output = captured.tensor if with_output else None
            rows.append((*unpack(losses), *((None, None) if output is None else unpack(output))))
    losses_primal, _, output_primal, _ = rows[0]
    output_dot = None if output_primal is None else torch.stack([row[3] for row in rows])
    return Directional(losses_primal, torch.stack([row[1] for row in rows]), output_primal, output_dot)


def dual_parameters(layout: Layout, parameters: dict[str, Tensor], direction: Tensor) -> dict[str, Tensor]:
    """Attach the parts of a flat direction to the parameters as tangents."""
    tangents = layout.views(direction)
    return {
        name: forward_mode.make_dual(value, tangents[name]) if name in tangents else value
        for name, value in parameters.items()
    }


def unpack(dual: Tensor) -> tuple[Tensor, Tensor]:
    """Split a dual number; a missing tangent is zero."""
    primal, tangent = forward_mode.unpack_dual(dual)
    return primal, torch.zeros_like(primal) if tangent is None else tangent
