"""Directional derivatives of all per-sample losses of a batch, by forward mode: valid for any model.

The Jacobian-vector product of the losses along G gives <G, gradient of loss i> for every sample i, with
whatever couples the samples (batch statistics) inside. No per-sample gradient is formed.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import NamedTuple

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from hydragrad.derivatives.layout import Layout
from hydragrad.derivatives.loss_module import Batch, LossModule
from hydragrad.derivatives.one_call import capture_output
from hydragrad.derivatives.part_losses import Terms
from hydragrad.derivatives.stopped import stopped_gradients
from hydragrad.derivatives.torch_gaps.twins import Twins
from hydragrad.derivatives.trusted import compare_with_safe, tolerance_of

DIRECTIONS_AT_ONCE = 8
"""Directions in one vectorised tangent; every one holds activations of its own."""


class OfParts(NamedTuple):
    """Terms of the samples' losses and their derivatives along Q directions.

    Attributes:
        losses: (batch, parts).
        losses_dot: (Q, batch, parts).
        trained: The terms that training had, and which are parts.
    """

    losses: Tensor
    losses_dot: Tensor
    trained: Terms


class Directional(NamedTuple):
    """Losses and their derivatives along Q directions.

    Attributes:
        losses: (batch,).
        losses_dot: (Q, batch).
        output: What the model's one call returned; None unless requested.
        output_dot: Its derivatives, with a leading Q.
        parts: Those of the parts that the samples' losses are made of; None unless requested.
    """

    losses: Tensor
    losses_dot: Tensor
    output: Tensor | None
    output_dot: Tensor | None
    parts: OfParts | None = None


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Select operations that have all derivatives: fused attention and fused encoder layers have none, nor have some
    that are written out."""
    _load_forward_rules()
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), Twins():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@cache
def _load_forward_rules() -> None:
    """Have torch load its forward-mode rules, which it does at the first dual number, with a deprecation warning."""
    with warnings.catch_warnings(), forward_mode.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        forward_mode.make_dual(torch.zeros(()), torch.zeros(()))


def directional_derivatives(
    problem: LossModule,
    layout: Layout,
    parameters: dict[str, Tensor],
    buffers: dict[str, Tensor],
    batch: Batch,
    directions: Tensor,
    *,
    with_output: bool = False,
    at_once: bool = False,
) -> Directional:
    """Differentiate all per-sample losses of a batch along Q directions.

    Args:
        problem: The private copy of model and loss.
        layout: Lays out those parameters that `directions` refers to.
        parameters: Values of all parameters.
        buffers: Values of all buffers.
        batch: The batch.
        directions: (Q, layout.size).
        with_output: Also return the model's output and its derivatives; needs one model call in the loss.
        at_once: Take several directions in one vectorised tangent, DIRECTIONS_AT_ONCE at a time to bound memory;
            check `works_at_once` first.

    Cost: one forward pass and, a direction, two products a layer.
    """
    if at_once and len(directions) > 1:
        chunks = [
            _all_at_once(problem, layout, parameters, buffers, batch, chunk, with_output)
            for chunk in directions.split(DIRECTIONS_AT_ONCE)
        ]
    else:
        chunks = [
            one_direction(problem, layout, parameters, buffers, batch, direction, with_output)
            for direction in directions
        ]
    dots = [chunk.output_dot for chunk in chunks if chunk.output_dot is not None]
    return Directional(
        chunks[0].losses,
        torch.cat([chunk.losses_dot for chunk in chunks]),
        chunks[0].output,
        torch.cat(dots) if dots else None,
    )


def works_at_once(
    problem: LossModule,
    layout: Layout,
    parameters: dict[str, Tensor],
    buffers: dict[str, Tensor],
    batch: Batch,
) -> bool:
    """Whether several directions in one vectorised tangent give what one direction at a time gives, at this batch."""
    like = next(iter(parameters.values()))
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(2, layout.size, generator=generator, dtype=like.dtype).to(like.device)
    where = (problem, layout, parameters, buffers, batch, directions)
    one_at_a_time = directional_derivatives(*where).losses_dot
    comparison = compare_with_safe(
        lambda: [directional_derivatives(*where, at_once=True).losses_dot],
        [one_at_a_time],
        tolerance=tolerance_of(like.dtype, one_at_a_time.dtype),
    )
    return comparison.trusted


def one_direction(
    problem: LossModule,
    layout: Layout,
    parameters: dict[str, Tensor],
    buffers: dict[str, Tensor],
    batch: Batch,
    direction: Tensor,
    with_output: bool = False,
    evaluating: Callable[[], AbstractContextManager[None]] = stopped_gradients,
) -> Directional:
    """The same along one direction (layout.size,), by dual numbers, inside a context of `evaluating`."""
    with differentiable_kernels(), forward_mode.dual_level(), evaluating():
        dual = dual_parameters(layout, parameters, direction)
        with capture_output(problem, required=with_output) as captured:
            losses, _ = problem.at(dual, buffers, batch)
        losses, losses_dot = unpack(losses)
        if not with_output:
            return Directional(losses, losses_dot[None], None, None)
        output, output_dot = unpack(captured.tensor)
        return Directional(losses, losses_dot[None], output, output_dot[None])


def _all_at_once(
    problem: LossModule,
    layout: Layout,
    parameters: dict[str, Tensor],
    buffers: dict[str, Tensor],
    batch: Batch,
    directions: Tensor,
    with_output: bool,
) -> Directional:
    moved = {name: parameters[name] for name in layout.names}

    def evaluate(weights: dict[str, Tensor]) -> tuple[Tensor, ...]:
        with capture_output(problem, required=with_output) as captured:
            losses, _ = problem.at(parameters | weights, buffers, batch)
        return (losses, captured.tensor) if with_output else (losses,)

    def along(direction: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        values, tangents = jvp(evaluate, (moved,), (layout.views(direction),))  # type: ignore[misc]
        return values, tangents

    with differentiable_kernels(), stopped_gradients():
        values, tangents = torch.vmap(along, randomness="same")(directions)
    if not with_output:
        return Directional(values[0][0], tangents[0], None, None)
    return Directional(values[0][0], tangents[0], values[1][0], tangents[1])


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
