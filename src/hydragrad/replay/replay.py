"""Replay: the recorded steps once more, checked against what was recorded."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hydragrad.derivatives import Batch
from hydragrad.errors import ReplayMismatch
from hydragrad.replay.causes import cause_of_other_state
from hydragrad.replay.differences import relative, relative_difference
from hydragrad.replay.elsewhere import Elsewhere
from hydragrad.replay.means import Means, parts_in
from hydragrad.replay.rounding import state_after
from hydragrad.replay.trajectory import StepHooks, Trajectory
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.runs.log import StepRecord


class Replay:
    """A trajectory that is held to the record.

    Args:
        trajectory: Moves along the steps.
        elsewhere: Holds a replay on another machine to what rounding explains. None on the machine (and threads) of
            the recording: any difference is an error.
        repeated: Steps that were made again and found equal to the record; is added to.

    Attributes:
        loss_weights: Of the samples of the training set, where they are not 1; None where all are.
        means: Over what losses are averaged, where the average is over what `loss_weights` leave; None else.
        held_until: The first step that leads elsewhere than the record, and from which on nothing is checked.
        drift: Largest relative L2 difference of the weights at the end of a segment so far.
    """

    def __init__(
        self, trajectory: Trajectory, *, elsewhere: Elsewhere | None, repeated: set[int] | None = None
    ) -> None:
        self.trajectory = trajectory
        self._elsewhere = elsewhere
        self.held_until: float = math.inf
        self._repeated = set() if repeated is None else repeated
        self.drift = 0.0
        self.loss_weights: Tensor | None = None
        self.means: Means | None = None

    def advance(
        self,
        record: StepRecord,
        batches: Sequence[Batch],
        weights: Tensor | None = None,
        hooks: StepHooks | None = None,
    ) -> list[Tensor]:
        """Make one step and check it; return the per-sample losses of every micro-batch.

        Steps with `weights` of their own, and steps from `held_until` on, lead elsewhere and are not checked.

        Raises:
            ReplayMismatch: Names step and size.
        """
        held = weights is None and record.step < self.held_until
        if weights is None and self.loss_weights is not None:
            weights = self._weights_of(record, batches, self.loss_weights)
        losses = self.trajectory.advance(record, batches, weights, hooks)
        if held:
            self._hold(record, losses)
            self._repeated.add(record.step)
        return losses

    def _weights_of(self, record: StepRecord, batches: Sequence[Batch], loss_weights: Tensor) -> Tensor:
        """What the losses of a step are multiplied by next to their coefficients, (samples,)."""
        alpha = [loss_weights[part.indices] for part in record.micro_batches]
        if self.means is None or all(bool((one == 1).all()) for one in alpha):
            return torch.cat(alpha)
        counts: list[Tensor | None] = [None] * len(alpha)
        if self.means.over_parts:
            counts = [parts_in(losses) for losses in self.trajectory.losses_at(record, batches)]
        factors = self.means.factors(record, alpha, counts)
        return torch.cat([one * factor for one, factor in zip(alpha, factors, strict=True)])

    def _hold(self, record: StepRecord, losses: Sequence[Tensor]) -> None:
        if self._elsewhere is not None:
            self._elsewhere.hold_step(self.trajectory, record, losses)
            return
        state = state_after(self.trajectory, record)
        if state != record.state:
            difference = relative(state, record.state)
            raise ReplayMismatch(
                f"Replaying step {record.step} gives another state than was recorded (relative difference "
                f"{difference:.1e}). {cause_of_other_state(difference, batch_known=record.shown)}"
            )

    def check_against(self, recorded: Checkpoint) -> None:
        """Compare the present state with a checkpoint.

        Raises:
            ReplayMismatch: Any difference on the recording's machine; more than rounding explains elsewhere.
        """
        if self._elsewhere is not None:
            self.drift = max(self.drift, self._elsewhere.hold_checkpoint(self.trajectory, recorded))
            return
        drift = relative_difference(self.trajectory.parameters, recorded.parameters)
        self.drift = max(self.drift, drift)
        if drift > 0:
            raise ReplayMismatch(
                f"The replayed weights before step {recorded.step} differ from the recorded ones by {drift:.1e} "
                f"(relative L2). Something in the run is not seeded, or weights were changed between steps."
            )
