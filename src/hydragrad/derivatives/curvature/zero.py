"""The products of a reverse step without curvature: directional derivatives only."""

import torch
from torch import Tensor

from hydragrad.derivatives.curvature.products import CurvatureStep, Point
from hydragrad.derivatives.directional.forward_mode import directional_derivatives, works_at_once
from hydragrad.derivatives.layout import Layout
from hydragrad.derivatives.loss_module import LossModule


class ZeroCurvature:
    """The same call as `CurvatureProducts`, with no curvature."""

    def __init__(self, problem: LossModule, weights: Layout, statistics: Layout, *, with_output: bool = False) -> None:
        self._problem, self._weights, self._with_output = problem, weights, with_output
        self._at_once: bool | None = None

    def __call__(self, point: Point, g_bar: Tensor, r_bar: Tensor) -> CurvatureStep:
        """Evaluate for every row of `g_bar` (Q, parameters)."""
        here = (self._problem, self._weights, point.parameters, point.buffers, point.batch)
        if self._at_once is None:
            self._at_once = len(g_bar) > 1 and works_at_once(*here)
        along = directional_derivatives(*here, g_bar, with_output=self._with_output, at_once=self._at_once)
        return CurvatureStep(along, torch.zeros_like(g_bar), r_bar)
