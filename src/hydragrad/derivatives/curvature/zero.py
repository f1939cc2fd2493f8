"""No curvature, where products are expected: a reverse sweep that leaves curvature out is the same sweep.

An optimizer without a closed form is swept without curvature, too: of the loss it needs the directional derivatives
alone, and what flows back to the weights through the gradient is zero.
"""

import torch
from torch import Tensor

from hydragrad.derivatives.curvature.products import CurvatureStep
from hydragrad.derivatives.directional.forward_mode import directional_derivatives, works_at_once
from hydragrad.derivatives.layout import Layout
from hydragrad.derivatives.loss_module import LossModule
from hydragrad.derivatives.per_sample.along import directional_one_by_one
from hydragrad.derivatives.point import Point


class ZeroCurvature:
    """Reverse-step products of one model and loss whose curvature counts as zero.

    Called as `CurvatureProducts` is. Several rows are taken in one vectorised tangent where, at the first call that
    has several, that agrees with one row at a time.

    Args:
        problem: Private copy of model and loss.
        weights: Lays out the trained parameters.
        with_output: Also return the output and its derivatives; needs one model call in the loss.
        one_by_one: Take one backward pass a sample in place of forward mode; gives no derivatives of the output.
    """

    def __init__(
        self, problem: LossModule, weights: Layout, *, with_output: bool = False, one_by_one: bool = False
    ) -> None:
        self.problem = problem
        self._one_by_one = one_by_one
        self.weights = weights
        self.with_output = with_output
        self._at_once: bool | None = None

    def __call__(self, point: Point, g_bar: Tensor, r_bar: Tensor) -> CurvatureStep:
        """Evaluate for every row of `g_bar` (Q, parameters).

        Returns:
            Losses and their derivatives along `g_bar`; a `w_bar` of zeros; and `r_bar` (Q, statistics) as it came:
            running statistics count as constants.

        Cost: one forward pass and, a row, two products a layer; once, four rows more.
        """
        where = (self.problem, self.weights, point.parameters, point.buffers, point.batch)
        if self._one_by_one:
            return CurvatureStep(directional_one_by_one(*where, g_bar), torch.zeros_like(g_bar), r_bar)
        if self._at_once is None and len(g_bar) > 1:
            self._at_once = works_at_once(*where)
        along = directional_derivatives(*where, g_bar, with_output=self.with_output, at_once=bool(self._at_once))
        return CurvatureStep(along, torch.zeros_like(g_bar), r_bar)
