"""Exact tangents of the run, forward: d(weights, running statistics)/d(sample weight), curvature included.

One step differentiates the batch gradient along (w_dot, r_dot, alpha_dot) of every tracked sample: forward over
reverse, several samples in one vectorised tangent.

Source: Chen et al. 2021, eqs. 35-36 ("with Hessian"), generalised to running statistics.
"""

from typing import NamedTuple

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor, nn
from torch.func import grad, jvp

from hydragrad.derivatives.curvature.held_products import LARGEST_GAP, tangent_gap
from hydragrad.derivatives.curvature.symmetric import require_symmetric
from hydragrad.derivatives.directional.forward_mode import differentiable_kernels, dual_parameters, unpack
from hydragrad.derivatives.graph import Kind, KindWatch, kind_of_graph
from hydragrad.derivatives.layout import Layout
from hydragrad.derivatives.loss_module import Batch, LossModule, PerSampleLoss
from hydragrad.derivatives.point import Point
from hydragrad.derivatives.stopped import stopped_gradients
from hydragrad.derivatives.torch_gaps.batch_norm import use_explicit_batch_norm
from hydragrad.derivatives.trusted import FAST_PATH_ERRORS, compare_with_safe, reason
from hydragrad.errors import HydragradError, Unsupported

ROWS_AT_ONCE = 8
"""Tracked samples in one vectorised tangent; every one holds activations of its own."""

Named = dict[str, Tensor]


class Tangents(NamedTuple):
    """Tangents of the batch gradient (rows, parameters), and of the statistics after the step (rows, statistics)."""

    g_dot: Tensor
    r_dot: Tensor


class ExactTangents:
    """Differentiates one step's batch gradient along the tangents of many samples.

    Args:
        model: Is copied.
        loss: Per-sample loss.
        weights: Lays out the parameters.
        statistics: Lays out the running statistics.
    """

    def __init__(self, model: nn.Module, loss: PerSampleLoss, weights: Layout, statistics: Layout) -> None:
        self._model, self._weights, self._statistics = model, weights, statistics
        self._problem = LossModule(model, loss, use_explicit_batch_norm)
        self._at_once: int | None = None
        self._kinds, self._steps = KindWatch(1 / 256), 0

    def __call__(
        self,
        parameters: Named,
        buffers: Named,
        batch: Batch,
        divisor: float,
        w_dot: Tensor,
        r_dot: Tensor,
        alpha_dot: Tensor,
        loss_weights: Tensor | None = None,
    ) -> Tangents:
        """Differentiate.

        Args:
            parameters: Before the step.
            buffers: Before the step.
            batch: The step's data.
            divisor: The step's loss is the sum of its per-sample losses over this number.
            w_dot: (rows, parameters).
            r_dot: (rows, statistics).
            alpha_dot: Tangents of the weights of the batch's losses, (rows, batch).
            loss_weights: What the per-sample losses are multiplied by, (batch,), where that is not 1.

        Raises:
            Unsupported: The gradient is stopped (detach(), torch.no_grad) on its way, where that changes it.
        """
        self._problem.take_modes(self._model)
        point = Point(parameters, buffers, batch, divisor, loss_weights)
        if loss_weights is not None:
            alpha_dot = alpha_dot * loss_weights
        try:
            with differentiable_kernels():
                self._check(point, w_dot, r_dot, alpha_dot)
                return self._of_rows(point, w_dot, r_dot, alpha_dot)
        except HydragradError:
            raise
        except FAST_PATH_ERRORS as error:
            raise Unsupported(
                f"Exact rows need derivatives that torch does not have for this model: {reason(error)}. Use "
                f"curvature='none', or hg.attribute(run, query, curvature='hessian'), which has a way round."
            ) from error

    def _of_rows(self, point: Point, w_dot: Tensor, r_dot: Tensor, alpha_dot: Tensor) -> Tangents:
        if self._at_once is None:
            self._at_once = self._rows_at_once(point, w_dot, r_dot, alpha_dot)
        size = self._at_once
        rows = zip(w_dot.split(size), r_dot.split(size), alpha_dot.split(size), strict=True)
        evaluate = self._singly if size == 1 else self._vectorised
        parts = [evaluate(point, *row) for row in rows]
        return Tangents(torch.cat([part.g_dot for part in parts]), torch.cat([part.r_dot for part in parts]))

    def _check(self, point: Point, w_dot: Tensor, r_dot: Tensor, alpha_dot: Tensor) -> None:
        """Hold a tangent to how gradient and statistics change, where the operations are new, and at random steps.

        Raises:
            Unsupported: They differ.
        """
        self._steps += 1
        if not self._kinds.wants(self._steps, self._kind(point)):
            return
        require_symmetric(self._problem, self._weights, point.parameters, point.buffers, point.batch)
        gap = tangent_gap(self._problem, self._weights, self._statistics, self._tangent, point, self._steps)
        if gap > LARGEST_GAP:
            raise Unsupported(
                f"The derivative of the gradient differs from how the gradient that trains really changes by {gap:.1e} "
                f"of its size: torch's forward mode has another rule than the backward pass for something in the model "
                f"(a custom autograd.Function). Use curvature='none', or hg.attribute(run, query, curvature='hessian')."
            )

    def _kind(self, point: Point) -> Kind:
        with torch.enable_grad():
            weights = {name: point.parameters[name].detach().requires_grad_() for name in self._weights.names}
            losses, _ = self._problem.at(point.parameters | weights, point.buffers, point.batch)
        return kind_of_graph(losses)

    def _tangent(self, problem: LossModule, point: Point, w_dot: Tensor, r_dot: Tensor, alpha_dot: Tensor) -> Tangents:
        """One row on another copy of the problem."""
        own, self._problem = self._problem, problem
        try:
            return self._singly(point, w_dot[None], r_dot[None], alpha_dot[None])
        finally:
            self._problem = own

    def _singly(self, point: Point, w_dot: Tensor, r_dot: Tensor, alpha_dot: Tensor) -> Tangents:
        """One row by dual numbers and torch's own reverse mode: valid for any model."""
        weights = {name: point.parameters[name].detach().requires_grad_() for name in self._weights.names}
        with forward_mode.dual_level():
            duals = dual_parameters(self._weights, point.parameters | weights, w_dot[0])
            moving = dual_parameters(self._statistics, point.buffers, r_dot[0])
            alpha = forward_mode.make_dual(_alpha(point, alpha_dot), alpha_dot[0])
            with stopped_gradients():
                losses, after = self._problem.at(duals, moving, point.batch)
            objective = (losses * alpha).sum() / point.divisor
            gradients = torch.autograd.grad(objective, list(weights.values()), allow_unused=True)
            g = [None if gradient is None else unpack(gradient)[1] for gradient in gradients]
            r = {name: unpack(after[name])[1].detach() for name in self._statistics.names}
        named = dict(zip(weights, g, strict=True))
        return Tangents(
            self._weights.flatten(named, w_dot)[None].detach(), self._statistics.flatten(r, r_dot)[None].detach()
        )

    def _vectorised(self, point: Point, w_dot: Tensor, r_dot: Tensor, alpha_dot: Tensor) -> Tangents:
        """Several rows in one vectorised tangent."""
        weights = {name: point.parameters[name].detach() for name in self._weights.names}
        statistics = {name: point.buffers[name].detach() for name in self._statistics.names}
        alpha_here = _alpha(point, alpha_dot)

        def objective(weights: Named, moving: Named, alpha: Tensor) -> tuple[Tensor, Named]:
            losses, after = self._problem.at(point.parameters | weights, point.buffers | moving, point.batch)
            return (losses * alpha).sum() / point.divisor, {name: after[name] for name in self._statistics.names}

        def along(w: Named, r: Named, alpha: Tensor) -> tuple[Named, Named]:
            gradient = grad(objective, has_aux=True)
            result: tuple[Named, Named] = jvp(gradient, (weights, statistics, alpha_here), (w, r, alpha))[1]
            return result

        with stopped_gradients():
            g, after = torch.vmap(along, randomness="same")(
                self._weights.views(w_dot), self._statistics.views(r_dot), alpha_dot
            )
        return Tangents(_flat(g, self._weights, w_dot), _flat(after, self._statistics, r_dot))

    def _rows_at_once(self, point: Point, *examples: Tensor) -> int:
        """How many rows may be vectorised: some models have other dropout there, or no batching rule."""
        generator = torch.Generator().manual_seed(0)
        random = [
            torch.randn(2, like.shape[1], generator=generator, dtype=like.dtype).to(like.device) for like in examples
        ]
        singly = torch.cat([self._singly(point, *(rows[i : i + 1] for rows in random)).g_dot for i in (0, 1)])
        comparison = compare_with_safe(lambda: [self._vectorised(point, *random).g_dot], [singly])
        return ROWS_AT_ONCE if comparison.trusted else 1


def _alpha(point: Point, alpha_dot: Tensor) -> Tensor:
    return torch.ones_like(alpha_dot[0]) if point.loss_weights is None else point.loss_weights


def _flat(named: Named, layout: Layout, like: Tensor) -> Tensor:
    parts = [named[name].reshape(len(like), -1) for name in layout.names]
    return torch.cat(parts, 1) if parts else like.new_zeros(len(like), 0)
