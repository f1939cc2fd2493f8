"""One reverse step's products by reverse mode alone: the gradient, differentiated once more.

Forward over reverse needs a forward-mode rule of every operation and of its backward pass. Here a backward pass goes
through the backward pass instead: d<G, g_bar>/dw for G = sum_i c_i g_i, whose derivatives by the coefficients c_i are
the <g_i, g_bar> of all samples. Both are the same wherever G is the gradient of a function. Where a hook or a custom
backward pass changes G, the second pass is changed, too, and the product is another one: `held_products` shows that.

Source: Pearlmutter 1994, in the form of two reverse passes.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from hydragrad.derivatives.chunked_head import head_calls
from hydragrad.derivatives.curvature.products import CurvatureStep
from hydragrad.derivatives.directional.forward_mode import Directional, differentiable_kernels
from hydragrad.derivatives.layout import Layout
from hydragrad.derivatives.loss_module import LossModule
from hydragrad.derivatives.one_call import capture_output, losses_of_output
from hydragrad.derivatives.point import Point
from hydragrad.errors import LossError

Named = dict[str, Tensor]


class ReverseProducts:
    """Reverse-step products of one model and loss; called as `CurvatureProducts` is.

    Args:
        problem: Private copy with explicit normalisation.
        weights: Lays out the trained parameters.
        statistics: Lays out the running statistics.
        gauss_newton: J' H_out J in place of the gradient's derivative.
    """

    def __init__(self, problem: LossModule, weights: Layout, statistics: Layout, *, gauss_newton: bool) -> None:
        self.problem, self.weights, self.statistics = problem, weights, statistics
        self.gauss_newton = gauss_newton

    def __call__(self, point: Point, g_bar: Tensor, r_bar: Tensor) -> CurvatureStep:
        """Evaluate for every row of `g_bar` (Q, parameters) and `r_bar` (Q, statistics).

        Raises:
            RuntimeError: An operation's backward pass is not differentiable.

        Cost: one forward and one backward pass, and a row, another backward pass of twice the size.
        """
        with torch.enable_grad(), differentiable_kernels():
            product = self._gauss_newton if self.gauss_newton else self._hessian
            return product(point, g_bar, r_bar)

    def _hessian(self, point: Point, g_bar: Tensor, r_bar: Tensor) -> CurvatureStep:
        weights, statistics = self._leaves(point)
        losses, after = self.problem.at(point.parameters | weights, point.buffers | statistics, point.batch)
        scale = torch.ones_like(losses) if point.loss_weights is None else point.loss_weights.to(losses)
        coefficients = (scale / point.divisor).detach().requires_grad_()
        gradients = _gradients((losses * coefficients).sum(), list(weights.values()), create_graph=True)
        variables = [*weights.values(), *statistics.values(), coefficients]
        rows = []
        for g, r in zip(g_bar, r_bar, strict=True):
            along = _product(gradients, self.weights.views(g).values())
            pulled = _product((after[name] for name in self.statistics.names), self.statistics.views(r).values())
            rows.append(_gradients(along + pulled, variables, retain_graph=True))
        dots = torch.stack([row[-1] for row in rows])
        return self._step(Directional(losses.detach(), dots, None, None), rows, g_bar, r_bar)

    def _gauss_newton(self, point: Point, g_bar: Tensor, r_bar: Tensor) -> CurvatureStep:
        weights, statistics = self._leaves(point)
        with capture_output(self.problem, required=True) as captured, head_calls() as calls:
            _, after = self.problem.at(point.parameters | weights, point.buffers | statistics, point.batch)
        if calls:
            raise LossError(
                "curvature='ggn' of a loss by chunked_cross_entropy needs a model that forward mode can differentiate; "
                "an operation of this one has no rule for it. Use curvature='hessian', or F.cross_entropy of logits."
            )
        output, variables = captured.tensor, [*weights.values(), *statistics.values()]
        cotangent = torch.zeros_like(output).requires_grad_()
        back = torch.autograd.grad(
            output, list(weights.values()), cotangent, create_graph=True, allow_unused=True, materialize_grads=True
        )
        rows, dots, losses = [], [], output
        for g, r in zip(g_bar, r_bar, strict=True):
            along = _product(back, self.weights.views(g).values())
            output_dot = _gradients(along, [cotangent], retain_graph=True)[0]
            losses, losses_dot, curved = self._through_loss(point, output, output_dot)
            pulled = _product((after[name] for name in self.statistics.names), self.statistics.views(r).values())
            total = (output * (curved / point.divisor)).sum() + pulled
            rows.append([*_gradients(total, variables, retain_graph=True), losses_dot])
            dots.append(losses_dot)
        return self._step(Directional(losses.detach(), torch.stack(dots), None, None), rows, g_bar, r_bar)

    def _through_loss(self, point: Point, output: Tensor, output_dot: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses, their derivatives and H_out times `output_dot`, from the output alone."""
        leaf = output.detach().requires_grad_()
        losses = losses_of_output(self.problem, point.batch, leaf)
        factors = torch.ones_like(losses).requires_grad_()
        gradient = _gradients(point.total(losses * factors), [leaf], create_graph=True)[0]
        curved, losses_dot = _gradients((gradient * output_dot.detach()).sum(), [leaf, factors])
        if point.loss_weights is not None:  # Derivatives are of the losses themselves.
            plain = _gradients((losses * factors).sum(), [leaf], create_graph=True)[0]
            losses_dot = _gradients((plain * output_dot.detach()).sum(), [factors])[0]
        return losses, losses_dot, curved

    def _leaves(self, point: Point) -> tuple[Named, Named]:
        weights = {name: point.parameters[name].detach().requires_grad_() for name in self.weights.names}
        statistics = {name: point.buffers[name].detach().clone().requires_grad_() for name in self.statistics.names}
        return weights, statistics

    def _step(
        self, along: Directional, rows: Sequence[Sequence[Tensor]], g_bar: Tensor, r_bar: Tensor
    ) -> CurvatureStep:
        split = len(self.weights.names)
        w = [self.weights.flatten(dict(zip(self.weights.names, row[:split], strict=True)), g_bar) for row in rows]
        r = [
            self.statistics.flatten(dict(zip(self.statistics.names, row[split:-1], strict=True)), r_bar) for row in rows
        ]
        return CurvatureStep(along, torch.stack(w), torch.stack(r))


def _gradients(
    value: Tensor, variables: Sequence[Tensor], *, create_graph: bool = False, retain_graph: bool = False
) -> tuple[Tensor, ...]:
    """Gradients, zero where there are none."""
    if not value.requires_grad:
        return tuple(torch.zeros_like(variable) for variable in variables)
    return torch.autograd.grad(
        value,
        variables,
        create_graph=create_graph,
        retain_graph=retain_graph or create_graph,
        allow_unused=True,
        materialize_grads=True,
    )


def _product(tensors: Iterable[Tensor], directions: Iterable[Tensor]) -> Tensor:
    """<tensors, directions>; a number that may have a graph."""
    parts = [(tensor * direction).sum() for tensor, direction in zip(tensors, directions, strict=True)]
    return torch.stack(parts).sum() if parts else torch.zeros(())
