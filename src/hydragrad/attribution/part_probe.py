"""Derivatives of single parts held to a backward pass.

The gradient that trained ties down only the sum over all parts. One backward pass of the terms with random weights s_p
gives, along u, sum_p s_p <g_p, u> for the true g_p of every part: parts that are mixed up, or that do not add up to
their samples, show there. It is made at the first step of every kind of graph and at random ones.
"""

import torch
from torch import Tensor

from hydragrad.derivatives import Batch, Directional, Layout, LossModule
from hydragrad.derivatives.coupling import random_weights
from hydragrad.derivatives.graph import Kind, KindWatch
from hydragrad.derivatives.held import Held
from hydragrad.derivatives.per_sample.weighted import weighted_gradient

SHARE = 1 / 64
"""Of the steps, those that are random."""


class PartProbe:
    """Holds derivatives of parts at some of the steps.

    Args:
        problem: The private copy of model and the loss of one number a part.
        weights: Lays out the parameters.
        held: Counts what is compared.
    """

    def __init__(self, problem: LossModule, weights: Layout, held: Held) -> None:
        self._problem, self._weights, self._held, self._kinds = problem, weights, held, KindWatch(SHARE)

    def hold(
        self,
        step: int,
        kind: Kind,
        where: tuple[dict[str, Tensor], dict[str, Tensor], Batch],
        along: Directional,
        directions: Tensor,
    ) -> None:
        """Hold the derivatives of one micro-batch's parts, if it is time.

        Args:
            step: Its step.
            kind: Of the graph of its losses.
            where: Parameters, buffers, and the batch of parts.
            along: Derivatives of the parts' terms, (Q, batch * parts).
            directions: (Q, parameters).

        Raises:
            NotHeld: They differ by more than rounding.
        """
        if not self._kinds.wants(step, kind):
            return
        weights = random_weights(along.losses, step)
        gradient, _ = weighted_gradient(self._problem, self._weights, *where, weights)
        with torch.no_grad():
            self._held.hold(along.losses_dot * weights, gradient, directions, "Derivatives of parts")
