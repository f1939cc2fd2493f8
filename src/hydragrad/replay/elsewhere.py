"""A replay that rounds otherwise than the recording, held to the record as closely as rounding lets it be.

It does on another machine, and where several processes trained: their gradients were added in another order.

Compared are the number over the state after every step, the step's loss where the loop reported it, and at checkpoints
weights, buffers and optimizer states.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from hydragrad.errors import ReplayMismatch
from hydragrad.replay.causes import cause_of_jump
from hydragrad.replay.differences import parts_of, relative, relative_differences
from hydragrad.replay.reported_losses import ReportedLosses
from hydragrad.replay.rounding import Followers, state_after, step_loss
from hydragrad.replay.trajectory import Trajectory
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.runs.log import StepRecord

DRIFT_TOLERANCE = 0.05
"""Largest relative difference of the weights at the end of a segment, even where rounding explains it."""

REMEDY = "Open the run with the code, data and loss that it was recorded with{here}."
HERE = ", or attribute on the machine of the recording"
ON_ANOTHER_MACHINE, OVER_RANKS = "rounding on another machine", "adding the ranks' gradients in another order"


class Elsewhere:
    """Holds a replay that rounds otherwise to the record.

    Args:
        followers: Measure what rounding does to the run.
        losses: Whether the reported losses are those of the steps.
        origin_of: The step whose recorded state a replay goes back to that restored the state before a step.
        processes: How many processes made the run.
        same_machine: Whether it was made here.
    """

    def __init__(
        self,
        followers: Followers,
        losses: ReportedLosses,
        origin_of: Callable[[int], int],
        *,
        processes: int = 1,
        same_machine: bool = False,
    ) -> None:
        self._followers, self._losses, self._origin_of = followers, losses, origin_of
        self._reason = OVER_RANKS if same_machine else ON_ANOTHER_MACHINE
        self._remedy = REMEDY.format(here="" if same_machine else HERE)
        self._processes = processes

    def hold_step(self, trajectory: Trajectory, record: StepRecord, losses: Sequence[Tensor]) -> None:
        """Compare a step that was just replayed.

        Args:
            trajectory: After the step.
            record: What the step did.
            losses: The per-sample losses of its micro-batches.

        Raises:
            ReplayMismatch: It differs by more than rounding; names step, size and the likely cause.
        """
        compared = record.loss if self._losses.wanted else None
        loss = 0.0 if compared is None else relative(step_loss(record, losses), compared)
        plain, state = self._followers.plain, state_after(trajectory, record)
        if relative(state, record.state) <= plain and loss <= plain:
            if compared is not None:
                self._losses.agreed(record.step)
            return
        apart, explained = self._followers.at_step(self._origin_of(trajectory.restored), record.step, state)
        same_loss = None if compared is None else min(loss, apart.loss) <= explained.loss
        if not apart.state <= explained.state:
            raise ReplayMismatch(
                f"Replaying step {record.step} gives another state than was recorded: the relative difference is "
                f"{apart.state:.1e}, and {self._reason} explains up to {explained.state:.1e} in this run. "
                f"{self._cause(record, same_loss=same_loss)} {self._remedy}"
            )
        if same_loss:
            self._losses.agreed(record.step)
        elif same_loss is False and self._losses.established:
            raise ReplayMismatch(
                f"Replaying step {record.step} gives another loss than the loop reported ({record.loss:.6g}): the "
                f"relative difference is {min(loss, apart.loss):.1e}, and {self._reason} explains up to "
                f"{explained.loss:.1e} in this run. {self._cause(record, same_loss=False)} {self._remedy}"
            )
        elif same_loss is False:
            self._losses.differed()

    def hold_checkpoint(self, trajectory: Trajectory, recorded: Checkpoint) -> float:
        """Compare the present state with a checkpoint; return the relative L2 difference of the weights.

        Raises:
            ReplayMismatch: It differs by more than rounding; names what, and by how much.
        """
        apart = relative_differences(parts_of(trajectory.checkpoint(recorded.step)), parts_of(recorded))
        drift = apart["weights"]
        if not all(value <= self._followers.plain_at_checkpoint for value in apart.values()):
            apart, explained = self._followers.at_checkpoint(self._origin_of(trajectory.restored), recorded)
            for part, difference in apart.items():
                if not difference <= explained[part]:
                    raise ReplayMismatch(
                        f"The replayed {part} before step {recorded.step} differ from the recorded ones by "
                        f"{difference:.1e} (relative L2), and {self._reason} explains up to "
                        f"{explained[part]:.1e} in this run. {self._remedy}"
                    )
        if not drift <= DRIFT_TOLERANCE:
            raise ReplayMismatch(
                f"Rounding took the replayed weights before step {recorded.step} {drift:.1e} (relative L2) from the "
                f"recorded ones; more than {DRIFT_TOLERANCE} is too much to stand for the run. Attribute on the "
                f"recording's machine, or record with checkpoints closer together (checkpoint_every)."
            )
        return drift

    def _cause(self, record: StepRecord, *, same_loss: bool | None) -> str:
        return cause_of_jump(record, same_loss=same_loss, processes=self._processes)
