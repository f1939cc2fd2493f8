"""Curvature products of many cotangents in one vectorised pass: what belongs to the batch is evaluated once.

The same products as in `products`, written as functions that torch.vmap can take over the rows. The pull-back of the
running statistics is part of the Hessian's pass, as the tangent of a factor that is zero: d/de [gradient of e <r_bar,
statistics after>] is what flows from r_bar to weights and statistics.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.func import grad, jvp, vjp

from hydragrad.derivatives.chunked_head import head_calls
from hydragrad.derivatives.curvature.products import CurvatureProducts, CurvatureStep, Products
from hydragrad.derivatives.directional.forward_mode import Directional, differentiable_kernels
from hydragrad.derivatives.layout import Layout
from hydragrad.derivatives.loss_module import LossModule
from hydragrad.derivatives.one_call import capture_output, losses_of_output
from hydragrad.derivatives.point import Point
from hydragrad.derivatives.stopped import stopped_gradients
from hydragrad.derivatives.trusted import compare_with_safe, tolerance_of

MAX_TANGENT_BYTES = 1 << 28
"""Bytes that the tangents of one batch's activations may take."""

MAX_ROWS_AT_ONCE = 32
"""Rows of one pass; more gain nothing."""

Named = dict[str, Tensor]


class VectorisedProducts:
    """Reverse-step products of one model and loss, `at_once` rows in one pass.

    Args:
        problem: Private copy with explicit normalisation.
        weights: Lays out the trained parameters.
        statistics: Lays out the running statistics.
        at_once: Rows of one pass.
        gauss_newton: J' H_out J in place of the Hessian.
        with_output: Also return the output and its derivatives.
    """

    def __init__(
        self,
        problem: LossModule,
        weights: Layout,
        statistics: Layout,
        *,
        at_once: int,
        gauss_newton: bool,
        with_output: bool = False,
    ) -> None:
        self._problem, self._weights, self._statistics = problem, weights, statistics
        self._at_once, self._with_output = at_once, with_output
        self._product = self._gauss_newton if gauss_newton else self._hessian

    def __call__(self, point: Point, g_bar: Tensor, r_bar: Tensor) -> CurvatureStep:
        """Evaluate for every row of `g_bar` (Q, parameters) and `r_bar` (Q, statistics)."""
        rows = zip(g_bar.split(self._at_once), r_bar.split(self._at_once), strict=True)
        with differentiable_kernels(), stopped_gradients():
            steps = [self._product(point, g, r) for g, r in rows]
        if len(steps) == 1:
            return steps[0]
        dots = [step.along.output_dot for step in steps if step.along.output_dot is not None]
        along = Directional(
            steps[0].along.losses,
            torch.cat([step.along.losses_dot for step in steps]),
            steps[0].along.output,
            torch.cat(dots) if dots else None,
        )
        return CurvatureStep(
            along, torch.cat([step.w_bar for step in steps]), torch.cat([step.r_bar for step in steps])
        )

    def _hessian(self, point: Point, g_bar: Tensor, r_bar: Tensor) -> CurvatureStep:
        weights, statistics = self._variables(point)
        zero, one = g_bar.new_zeros(()), g_bar.new_ones(())
        unmoved = {name: torch.zeros_like(value) for name, value in statistics.items()}

        def row(g: Tensor, r: Tensor) -> Any:
            pulled = self._statistics.views(r)

            def objective(weights: Named, statistics: Named, factor: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
                with capture_output(self._problem, required=self._with_output) as captured:
                    losses, after = self._evaluate(point, weights, statistics)
                total = point.total(losses) / point.divisor
                for name, cotangent in pulled.items():
                    total = total + factor * (cotangent * after[name]).sum()
                return total, (losses, captured.tensor) if self._with_output else (losses,)

            gradient = grad(objective, argnums=(0, 1), has_aux=True)
            here = (weights, statistics, zero)
            (_, values), (curved, dots) = jvp(gradient, here, (self._weights.views(g), unmoved, one))  # type: ignore[misc]
            return values, dots, *curved

        parts: Any = torch.vmap(row, randomness="same")(g_bar, r_bar)
        return self._step(*parts)

    def _gauss_newton(self, point: Point, g_bar: Tensor, r_bar: Tensor) -> CurvatureStep:
        weights, statistics = self._variables(point)

        def forward(weights: Named, statistics: Named) -> tuple[Tensor, Named]:
            with capture_output(self._problem, required=True) as captured, head_calls() as calls:
                _, after = self._evaluate(point, weights, statistics)
            if calls:
                raise NotImplementedError("chunked_cross_entropy: one Gauss-Newton product at a time")
            return captured.tensor, {name: after[name] for name in self._statistics.names}

        def through_loss(output: Tensor) -> tuple[Tensor, Tensor]:
            def total(output: Tensor) -> tuple[Tensor, Tensor]:
                losses = losses_of_output(self._problem, point.batch, output)
                return point.total(losses), losses

            gradient, losses = grad(total, has_aux=True)(output)
            return gradient, losses

        def row(g: Tensor) -> Any:
            output, output_dot = jvp(lambda w: forward(w, statistics)[0], (weights,), (self._weights.views(g),))  # type: ignore[misc]
            (_, losses), (curved, losses_dot) = jvp(through_loss, (output,), (output_dot,))  # type: ignore[misc]
            return (losses, output), (losses_dot, output_dot), curved / point.divisor

        values, dots, curved = torch.vmap(row, randomness="same")(g_bar)
        _, pull = vjp(forward, weights, statistics)  # type: ignore[misc]
        pulled: Any = torch.vmap(lambda c, r: pull((c, self._statistics.views(r))))(curved, r_bar)
        return self._step(values, dots, *pulled)

    def _evaluate(self, point: Point, weights: Named, statistics: Named) -> tuple[Tensor, Named]:
        return self._problem.at(point.parameters | weights, point.buffers | statistics, point.batch)

    def _variables(self, point: Point) -> tuple[Named, Named]:
        weights = {name: point.parameters[name] for name in self._weights.names}
        return weights, {name: point.buffers[name] for name in self._statistics.names}

    def _step(self, values: tuple[Tensor, ...], dots: tuple[Tensor, ...], w_bar: Named, r_bar: Named) -> CurvatureStep:
        output, output_dot = (values[1][0], dots[1]) if self._with_output else (None, None)
        along = Directional(values[0][0], dots[0], output, output_dot)
        count = len(dots[0])
        return CurvatureStep(
            along, _rows(self._weights, w_bar, count, dots[0]), _rows(self._statistics, r_bar, count, dots[0])
        )


def fastest_products(single: CurvatureProducts, point: Point, g_bar: Tensor, r_bar: Tensor) -> Products:
    """Return `single`, or the same products in one pass where there are several rows and the first two agree.

    Some operations of a model may have no batching rule, or other randomness in a vectorised pass.
    """
    if len(g_bar) < 2:
        return single
    at_once = max(2, min(MAX_ROWS_AT_ONCE, MAX_TANGENT_BYTES // max(1, _activation_bytes(single.problem, point))))
    vectorised = VectorisedProducts(
        single.problem,
        single.weights,
        single.statistics,
        at_once=at_once,
        gauss_newton=single.gauss_newton,
        with_output=single.with_output,
    )

    def first_two(products: Products) -> tuple[Tensor, ...]:
        step = products(point, g_bar[:2], r_bar[:2])
        return step.along.losses_dot, step.w_bar, step.r_bar

    safe = first_two(single)
    tolerance = tolerance_of(*(value.dtype for value in safe))
    trusted = compare_with_safe(lambda: first_two(vectorised), safe, tolerance=tolerance).trusted
    return vectorised if trusted else single


def _activation_bytes(problem: LossModule, point: Point) -> int:
    """Bytes that one forward pass saves for its backward pass."""
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.nbytes
        return tensor

    parameters = {name: value.detach().requires_grad_() for name, value in point.parameters.items()}
    with (
        torch.enable_grad(),
        differentiable_kernels(),
        saved_tensors_hooks(count, lambda tensor: tensor),
        head_calls() as calls,
    ):
        problem.at(parameters, point.buffers, point.batch)
    return sum(saved.values()) + sum(call.chunk_bytes for call in calls)


def _rows(layout: Layout, named: Named, count: int, like: Tensor) -> Tensor:
    """Named tensors (Q, *shape) as rows (Q, size)."""
    if not named:
        return like.new_zeros(count, 0)
    return torch.cat([named[name].detach().reshape(count, -1) for name in layout.names], dim=1)
