"""Replay: the recorded steps once more, checked against what was recorded."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from hydragrad.derivatives import Batch
from hydragrad.errors import ReplayMismatch
from hydragrad.replay.causes import cause_of_other_state
from hydragrad.replay.fingerprints import first_trained_norm
from hydragrad.replay.trajectory import StepHooks, Trajectory
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.runs.log import StepRecord

DRIFT_TOLERANCE = 0.05
"""Largest relative difference of the weights at the end of a segment that a replay on another machine may have."""


class Replay:
    """A trajectory that is held to the record.

    Args:
        trajectory: Moves along the steps.
        exact: True on the machine (and threads) of the recording: any difference is an error. Otherwise every
            segment starts from its recorded weights, and `drift` says how far it went astray.
        repeated: Steps that were made again and found equal to the record; is added to.

    Attributes:
        loss_weights: Of the samples of the training set, where they are not 1; None where all are.
        held_until: The first step that leads elsewhere than the record, and from which on nothing is checked.
        drift: Largest relative L2 difference of the weights at the end of a segment so far.
    """

    def __init__(self, trajectory: Trajectory, *, exact: bool, repeated: set[int] | None = None) -> None:
        self.trajectory = trajectory
        self.exact = exact
        self.held_until: float = math.inf
        self._repeated = set() if repeated is None else repeated
        self.drift = 0.0
        self.loss_weights: Tensor | None = None

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
        held = weights is None and self.exact and record.step < self.held_until
        if weights is None and self.loss_weights is not None:
            weights = self.loss_weights[record.indices]
        losses = self.trajectory.advance(record, batches, weights, hooks)
        if held:
            state = self._state(record)
            if state != record.state:
                difference = abs(state - record.state) / max(abs(record.state), 1e-300)
                raise ReplayMismatch(
                    f"Replaying step {record.step} gives another state than was recorded (relative difference "
                    f"{difference:.1e}). {cause_of_other_state(difference, batch_known=_shown(record))}"
                )
            if weights is None:
                self._repeated.add(record.step)
        return losses

    def _state(self, record: StepRecord) -> float:
        """The present state as the step's record has it."""
        if record.whole_state:
            return self.trajectory.state_number()
        return first_trained_norm(self.trajectory.parameters, record.structure)

    def check_against(self, recorded: Checkpoint) -> None:
        """Compare the present weights with a checkpoint.

        Raises:
            ReplayMismatch: Any difference on the recording's machine; more than DRIFT_TOLERANCE elsewhere.
        """
        drift = relative_difference(self.trajectory.parameters, recorded.parameters)
        self.drift = max(self.drift, drift)
        if (self.exact and drift > 0) or not drift <= DRIFT_TOLERANCE:
            raise ReplayMismatch(
                f"The replayed weights before step {recorded.step} differ from the recorded ones by {drift:.1e} "
                f"(relative L2). "
                + (
                    "Something in the run is not seeded, or weights were changed between steps."
                    if self.exact
                    else f"More than {DRIFT_TOLERANCE} on another machine is too much: attribute where the run was "
                    f"recorded, or record with checkpoints closer together (checkpoint_every)."
                )
            )


def _shown(record: StepRecord) -> bool:
    """Whether the loop showed the step's batches, so that they were compared."""
    return all(part.digest is not None for part in record.micro_batches)


def relative_difference(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Relative L2 distance of two sets of named tensors; 0 only where they are equal to the bit."""
    distance = scale = 0.0
    for name, value in expected.items():
        value = value.double().cpu()
        distance += float((given[name].double().cpu() - value).square().sum())
        scale += float(value.square().sum())
    return math.sqrt(distance / scale) if scale > 0 else math.sqrt(distance)
