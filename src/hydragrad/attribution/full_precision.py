"""Runs under autocast: what is differentiated is the same loss without autocast, at the recorded weights.

The replay repeats the run under its autocast, to the bit. Derivatives of half-precision arithmetic are noise, so theirs
are those of the loss in the weights' own precision. They are held to a backward pass of that loss at the first steps
and at random ones, loosely to the gradient that trained at every step, and the losses of both are compared.
"""

import torch
from torch import Tensor

from hydragrad.attribution.plan import Plan
from hydragrad.derivatives import Batch, LossModule
from hydragrad.derivatives.graph import KindWatch
from hydragrad.derivatives.held import Held
from hydragrad.derivatives.per_sample.weighted import weighted_gradient
from hydragrad.runs import StepRecord
from hydragrad.runs.log import MicroBatch

GAP = 0.25
"""How far sums of derivatives may be from a half-precision gradient that trained, relative to what is added up."""
FIRST, SHARE = 8, 1 / 16
"""Steps that are held exactly: so many, and so large a share of the others."""


class FullPrecision:
    """Gradients without autocast of steps that trained under it.

    Args:
        plan: Which run.
        problem: The private copy of model and loss that derivatives are taken of.

    Attributes:
        losses: How far the losses of micro-batches were from those that trained.
    """

    def __init__(self, plan: Plan, problem: LossModule, losses: Held) -> None:
        self._plan, self._problem, self.losses = plan, problem, losses
        self._seen, self._random = 0, KindWatch(SHARE)

    def wants(self, record: StepRecord) -> bool:
        """Whether a step is held to a backward pass of its own."""
        if record.autocast is None:
            return False
        self._seen += 1
        return self._seen <= FIRST or self._random.draws(record.step)

    def gradient(
        self,
        part: MicroBatch,
        batch: Batch,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        loss_weights: Tensor | None = None,
    ) -> Tensor:
        """Gradient of a micro-batch's losses with their coefficients and the run's own loss weights, flat."""
        plan = self._plan
        like = next(iter(parameters.values()))
        weights = part.weighted(like.new_ones(len(part)))
        if loss_weights is not None:
            weights = weights * loss_weights.to(weights)
        frozen = [name for name, value in parameters.items() if name not in plan.weights.shapes]
        gradient, _ = weighted_gradient(self._problem, plan.weights, parameters, buffers, batch, weights, frozen=frozen)
        return gradient

    def note(self, part: MicroBatch, in_full: Tensor, trained: Tensor) -> None:
        """Compare the losses of a micro-batch, (batch,), with those that trained."""
        if part.autocast is not None:
            difference = (in_full.double() - trained.double()).abs().mean() / trained.double().abs().mean()
            self.losses.note(float(torch.nan_to_num(difference)))
