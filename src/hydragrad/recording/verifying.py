"""Verifying while recording: some steps are replayed at once.

The first steps of segments are, at ever longer distances: faults of a loop show at its first step, or where something
begins later on, which the next replay finds in any case, since every step's weights are in the log.
"""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from hydragrad.derivatives import Batch, PerSampleLoss
from hydragrad.errors import ReplayMismatch
from hydragrad.randomness import preserved
from hydragrad.replay.replay import relative_difference
from hydragrad.replay.trajectory import Trajectory
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.runs.log import StepRecord
from hydragrad.steps import StepRule


class Verifier:
    """Replays steps that have just been made, so that a loop that does more than is recorded hears it at once.

    Args:
        model: The model being trained; a copy is made at the first verification.
        loss: The loss that is recorded.
        rule: Of the optimizer.
    """

    def __init__(self, model: nn.Module, loss: PerSampleLoss, rule: StepRule) -> None:
        self._given = (model, loss, rule)
        self._trajectory: Trajectory | None = None
        self._next = 0

    def due(self, step: int) -> bool:
        """Whether the segment that starts here is verified: the first that is seen, then where the step has doubled."""
        if step < self._next:
            return False
        self._next = 2 * step
        return True

    def verify(
        self, start: Checkpoint, record: StepRecord, fetch: Callable[[], Sequence[Batch]], after: Mapping[str, Tensor]
    ) -> None:
        """Replay a step.

        Args:
            start: The state before it.
            record: What it did.
            fetch: Fetches its micro-batches again.
            after: The parameters after it, by name.

        Raises:
            ReplayMismatch: Says what may be the cause.
        """
        with preserved():
            if self._trajectory is None:
                self._trajectory = Trajectory(*self._given)
            check_one_step(self._trajectory, start, record, fetch(), after)


def check_one_step(
    trajectory: Trajectory, start: Checkpoint, record: StepRecord, batches: Sequence[Batch], after: Mapping[str, Tensor]
) -> None:
    """Compare one step's replay with the parameters after it.

    Raises:
        ReplayMismatch: Says what may be the cause.
    """
    trajectory.restore(start)
    trajectory.advance(record, batches)
    difference = relative_difference(trajectory.parameters, after)
    on_cpu = all(value.device.type == "cpu" for value in after.values())
    if not difference <= (0.0 if on_cpu else 1e-4):
        raise ReplayMismatch(
            f"Step {record.step} can't be replayed from what the recorder sees: the weights differ by {difference:.1e} "
            f"(relative L2). The loop does something that the recording does not know: gradient clipping or "
            f"accumulation, another loss or reduction than the recorder was given, autocast, batches other than "
            f"train_set[indices] (take them from hg.indexed(loader), or pass the batch to step() and "
            f"store_batches=True), or weights set by hand. Take it out of the step."
        )
