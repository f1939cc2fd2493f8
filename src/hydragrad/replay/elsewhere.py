"""A replay on another machine, held to the record as closely as rounding lets it be.

Compared are the number over the state after every step, the step's loss where the loop reported it, and at checkpoints
weights, buffers and optimizer states.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from hydragrad.errors import ReplayMismatch
from hydragrad.replay.causes import cause_of_jump
from hydragrad.replay.reported_losses import ReportedLosses
from hydragrad.replay.rounding import (
    PLAIN_ROUNDINGS,
    ExpectedDrift,
    Seen,
    parts_of,
    relative,
    relative_differences,
    state_after,
    step_loss,
)
from hydragrad.replay.trajectory import Trajectory
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.runs.log import StepRecord

PLAIN_AT_CHECKPOINTS = 1024
"""Relative difference of weights in units of rounding up to which nothing is measured: steps are held to less."""

REMEDY = (
    "Open the run with the code, data and loss that it was recorded with, or attribute on the machine of the recording."
)


class Elsewhere:
    """Holds a replay on another machine to the record.

    Args:
        expected: Measures what rounding does to the run.
        losses: Whether the reported losses are those of the steps.
        origin_of: The step whose recorded state a replay goes back to that restored the state before a step.
    """

    def __init__(self, expected: ExpectedDrift, losses: ReportedLosses, origin_of: Callable[[int], int]) -> None:
        self._expected, self._losses, self._origin_of = expected, losses, origin_of

    def hold_step(self, trajectory: Trajectory, record: StepRecord, losses: Sequence[Tensor]) -> None:
        """Compare a step that was just replayed.

        Args:
            trajectory: After the step.
            record: What the step did.
            losses: The per-sample losses of its micro-batches.

        Raises:
            ReplayMismatch: It differs by more than rounding; names step, size and the likely cause.
        """
        seen = Seen(state_after(trajectory, record), step_loss(record, losses))
        self._expected.note(record.step, seen)
        state = relative(seen.state, record.state)
        compared = record.loss is not None and self._losses.wanted
        loss = relative(seen.loss, record.loss) if compared and record.loss is not None else 0.0
        plain = PLAIN_ROUNDINGS * self._expected.unit
        if state <= plain and loss <= plain:
            if compared:
                self._losses.agreed(record.step)
            return
        explained = self._expected.of_step(self._origin_of(trajectory.restored), record.step)
        same_loss = loss <= explained.loss if compared else None
        if not state <= explained.state:
            raise ReplayMismatch(
                f"Replaying step {record.step} gives another state than was recorded: the relative difference is "
                f"{state:.1e}, and rounding on another machine explains up to {explained.state:.1e} in this run. "
                f"{cause_of_jump(record, same_loss=same_loss)} {REMEDY}"
            )
        if same_loss:
            self._losses.agreed(record.step)
        elif same_loss is False and self._losses.established:
            raise ReplayMismatch(
                f"Replaying step {record.step} gives the loss {seen.loss:.6g} where the loop reported "
                f"{record.loss:.6g}: the relative difference is {loss:.1e}, and rounding on another machine explains up "
                f"to {explained.loss:.1e} in this run. {cause_of_jump(record, same_loss=False)} {REMEDY}"
            )
        elif same_loss is False:
            self._losses.differed()

    def hold_checkpoint(self, trajectory: Trajectory, recorded: Checkpoint) -> float:
        """Compare the present state with a checkpoint; return the relative L2 difference of the weights.

        Raises:
            ReplayMismatch: It differs by more than rounding; names what, and by how much.
        """
        present = parts_of(trajectory.checkpoint(recorded.step))
        apart = relative_differences(present, parts_of(recorded))
        if not all(value <= PLAIN_AT_CHECKPOINTS * self._expected.unit for value in apart.values()):
            explained = self._expected.of_parts(self._origin_of(trajectory.restored), recorded.step, present)
            for part, difference in apart.items():
                if not difference <= explained.get(part, 0.0):
                    raise ReplayMismatch(
                        f"The replayed {part} before step {recorded.step} differ from the recorded ones by "
                        f"{difference:.1e} (relative L2), and rounding on another machine explains up to "
                        f"{explained.get(part, 0.0):.1e} in this run. {REMEDY}"
                    )
        return apart["weights"]
