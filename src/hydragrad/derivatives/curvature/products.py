"""What one reverse step needs, from one evaluation: all directional derivatives and a curvature product.

The exact product goes forward over reverse: the tangent, along g_bar, of the gradient of the batch loss is
H g_bar, and the tangents of the per-sample losses are the <g_bar, gradient i> of all samples. Running
statistics are part of the state: their cotangent goes through the same backward pass.

The Gauss-Newton product is J' H_out J, with J the Jacobian of the whole batch's outputs and H_out the Hessian
of the losses in the output of the model's one call.

Source: Pearlmutter 1994 (exact products); Schraudolph 2002 (Gauss-Newton products).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor

from hydragrad.derivatives.chunked_head import Call, head_calls
from hydragrad.derivatives.directional.forward_mode import Directional, differentiable_kernels, dual_parameters, unpack
from hydragrad.derivatives.layout import Layout
from hydragrad.derivatives.loss_module import LossModule
from hydragrad.derivatives.one_call import capture_output, losses_of_output
from hydragrad.derivatives.point import Point
from hydragrad.derivatives.stopped import stopped_gradients
from hydragrad.errors import LossError


class CurvatureStep(NamedTuple):
    """One reverse step's products, for Q cotangents.

    Attributes:
        along: Per-sample losses and their derivatives along g_bar.
        w_bar: Curvature times g_bar, and what flows in from the running statistics, (Q, parameters).
        r_bar: Cotangent of the running statistics before the step, (Q, statistics).
    """

    along: Directional
    w_bar: Tensor
    r_bar: Tensor


Products = Callable[[Point, Tensor, Tensor], CurvatureStep]
"""Point, g_bar (Q, parameters) and r_bar (Q, statistics) to one reverse step's products."""


class _OneProduct(NamedTuple):
    losses: Tensor
    losses_dot: Tensor
    output: Tensor | None
    output_dot: Tensor | None
    w_bar: Tensor
    r_bar: Tensor

    @classmethod
    def detached(cls, *tensors: Tensor | None) -> Self:
        """Cut the values off the graph, so that it can be freed."""
        return cls(*(None if tensor is None else tensor.detach() for tensor in tensors))  # type: ignore[arg-type]


class CurvatureProducts:
    """Reverse-step products of one model and loss.

    Args:
        problem: Private copy with explicit normalisation.
        weights: Lays out the trained parameters.
        statistics: Lays out the running statistics.
        gauss_newton: J' H_out J in place of the Hessian.
        with_output: Also return the output and its derivatives.
    """

    def __init__(
        self,
        problem: LossModule,
        weights: Layout,
        statistics: Layout,
        *,
        gauss_newton: bool,
        with_output: bool = False,
    ) -> None:
        self.problem = problem
        self.weights = weights
        self.statistics = statistics
        self.gauss_newton = gauss_newton
        self._product = self._gauss_newton if gauss_newton else self._hessian
        self.with_output = with_output

    def __call__(self, point: Point, g_bar: Tensor, r_bar: Tensor) -> CurvatureStep:
        """Evaluate for every row of `g_bar` (Q, parameters) and `r_bar` (Q, statistics)."""
        rows = [self._product(point, g, r) for g, r in zip(g_bar, r_bar, strict=True)]
        output = rows[0].output
        output_dots = [row.output_dot for row in rows if row.output_dot is not None]
        along = Directional(
            rows[0].losses,
            torch.stack([row.losses_dot for row in rows]),
            output,
            torch.stack(output_dots) if output_dots else None,
        )
        return CurvatureStep(along, torch.stack([row.w_bar for row in rows]), torch.stack([row.r_bar for row in rows]))

    def _hessian(self, point: Point, g_bar: Tensor, r_bar: Tensor) -> _OneProduct:
        weights, statistics = self._leaves(point)
        with differentiable_kernels(), forward_mode.dual_level():
            duals = dual_parameters(self.weights, point.parameters | weights, g_bar)
            with stopped_gradients(), capture_output(self.problem, required=self.with_output) as captured:
                losses, after = self.problem.at(duals, point.buffers | statistics, point.batch)
            objective = point.total(losses) / point.divisor
            for name, cotangent in self.statistics.views(r_bar).items():
                # (0 + r_bar e) times the new statistics adds r_bar's pull-back to the gradient's tangent only.
                objective = (
                    objective + (forward_mode.make_dual(torch.zeros_like(cotangent), cotangent) * after[name]).sum()
                )
            leaves = [*weights.values(), *statistics.values()]
            gradients = torch.autograd.grad(objective, leaves, allow_unused=True)
            tangents = [None if gradient is None else unpack(gradient)[1] for gradient in gradients]
            outputs = unpack(captured.tensor) if self.with_output else (None, None)
            return _OneProduct.detached(*unpack(losses), *outputs, *self._gather(tangents, g_bar, r_bar))

    def _gauss_newton(self, point: Point, g_bar: Tensor, r_bar: Tensor) -> _OneProduct:
        weights, statistics = self._leaves(point)
        with differentiable_kernels():
            with forward_mode.dual_level():
                duals = dual_parameters(self.weights, point.parameters | weights, g_bar)
                with (
                    stopped_gradients(),
                    capture_output(self.problem, required=True) as captured,
                    head_calls() as calls,
                ):
                    losses, after = self.problem.at(duals, point.buffers | statistics, point.batch)
                if calls:
                    ends, cotangents = self._through_head(point, losses, calls)
                    values = unpack(losses)
                else:
                    output, output_dot = unpack(captured.tensor)
                after = {name: unpack(after[name])[0] for name in self.statistics.names}
            if calls:
                pulled_back = torch.autograd.grad(ends, list(weights.values()), cotangents, allow_unused=True)
                return _OneProduct.detached(*values, None, None, *self._gather(pulled_back, g_bar, r_bar))
            losses, losses_dot, curved = self._through_loss(point, output, output_dot)
            pulled = {name: r for name, r in self.statistics.views(r_bar).items() if after[name].requires_grad}
            gradients = torch.autograd.grad(
                [output, *(after[name] for name in pulled)],
                [*weights.values(), *statistics.values()],
                [curved / point.divisor, *pulled.values()],
                allow_unused=True,
            )
        return _OneProduct.detached(losses, losses_dot, output, output_dot, *self._gather(gradients, g_bar, r_bar))

    def _through_head(self, point: Point, losses: Tensor, calls: Sequence[Call]) -> tuple[list[Tensor], list[Tensor]]:
        """Hidden states and weights of `chunked_cross_entropy`, and cotangents of them whose pull-back is the product.

        Raises:
            LossError: A loss that is not linear in what it returned, a model with running statistics, or an output that
                is wanted.
        """
        if self.with_output or self.statistics.names:
            raise LossError(
                "curvature='ggn' of a loss by chunked_cross_entropy is without labels=True and without BatchNorm. Use "
                "F.cross_entropy of logits."
            )
        own = [call.losses for call in calls]
        gradients = torch.autograd.grad(point.total(losses), own, retain_graph=True, materialize_grads=True)
        ends, cotangents = list[Tensor](), list[Tensor]()
        for call, gradient in zip(calls, gradients, strict=True):
            c, c_dot = unpack(gradient)
            if c_dot.any():
                raise LossError(
                    "curvature='ggn' needs a loss that is linear in what chunked_cross_entropy returns, such as its "
                    "mean over positions. Use curvature='hessian'."
                )
            (h, h_dot), (w, w_dot) = unpack(call.h), unpack(call.w)
            pairs = zip((h, w), call.gauss_newton(c, h_dot, w_dot), strict=True)
            for end, cotangent in pairs:
                if end.requires_grad:
                    ends.append(end)
                    cotangents.append(cotangent / point.divisor)
        return ends, cotangents

    def _through_loss(self, point: Point, output: Tensor, output_dot: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses, their derivatives and H_out times `output_dot`, from the output alone."""
        with forward_mode.dual_level():
            leaf = output.detach().requires_grad_()
            dual = forward_mode.make_dual(leaf, output_dot.detach())
            losses = losses_of_output(self.problem, point.batch, dual)
            (gradient,) = torch.autograd.grad(point.total(losses), leaf)
            return *unpack(losses), unpack(gradient)[1]

    def _leaves(self, point: Point) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        weights = {name: point.parameters[name].detach().requires_grad_() for name in self.weights.names}
        statistics = {name: point.buffers[name].detach().clone().requires_grad_() for name in self.statistics.names}
        return weights, statistics

    def _gather(self, tangents: Sequence[Tensor | None], g_bar: Tensor, r_bar: Tensor) -> tuple[Tensor, Tensor]:
        split = len(self.weights.names)
        w = self.weights.flatten(dict(zip(self.weights.names, tangents[:split], strict=True)), g_bar)
        r = self.statistics.flatten(dict(zip(self.statistics.names, tangents[split:], strict=True)), r_bar)
        return w, r
