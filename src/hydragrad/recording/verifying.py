"""Verifying while recording: some steps are replayed just after the loop made them.

These are first steps of segments, at ever longer distances. Most faults of a loop show at its first step; one that
begins later is found by the next replay of the run in any case, since the log has one number over the state after
every step.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hydragrad.derivatives import Batch, PerSampleLoss
from hydragrad.errors import ReplayMismatch
from hydragrad.randomness import preserved
from hydragrad.recording.autocast import refusing_autocast
from hydragrad.replay.replay import relative_difference
from hydragrad.replay.trajectory import Trajectory
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.runs.log import StepRecord
from hydragrad.steps import StepRule


class Verifier:
    """Replays steps just after the loop made them, so that a loop that does more than is recorded is refused at once.

    Args:
        model: The model being trained; a copy is made at the first verification.
        loss: The loss that is recorded.
        rule: The optimizer's step rule.
    """

    def __init__(self, model: nn.Module, loss: PerSampleLoss, rule: StepRule) -> None:
        self._model, self._loss, self._rule = model, loss, rule
        self._trajectory: Trajectory | None = None
        self._next = 0

    def due(self, step: int) -> bool:
        """Whether the segment that starts here is verified: the first one, then wherever the step has doubled."""
        if step < self._next:
            return False
        self._next = 2 * step
        return True

    def verify(
        self, start: Checkpoint, record: StepRecord, fetch: Callable[[], Sequence[Any]], after: Mapping[str, Tensor]
    ) -> None:
        """Replay a step and compare the parameters after it.

        Args:
            start: The state before it.
            record: What it did.
            fetch: Fetches the data of its micro-batches again.
            after: The parameters after it, by name.

        Raises:
            ReplayMismatch: They differ; lists the likely causes.
        """
        with preserved():
            if self._trajectory is None:
                self._trajectory = Trajectory(self._model, self._loss, self._rule)
            parts = zip(record.micro_batches, fetch(), strict=True)
            batches = [Batch(data, len(part), part.seed) for part, data in parts]
            check_one_step(self._trajectory, start, record, batches, after)


def check_one_step(
    trajectory: Trajectory, start: Checkpoint, record: StepRecord, batches: Sequence[Batch], after: Mapping[str, Tensor]
) -> None:
    """Replay one step and compare the parameters after it.

    Raises:
        ReplayMismatch: They differ; lists the likely causes.
        Unsupported: The model or the loss enters autocast itself.
    """
    trajectory.restore(start)
    with refusing_autocast(trajectory.model):
        trajectory.advance(record, batches)
    difference = relative_difference(trajectory.parameters, after)
    on_cpu = all(value.device.type == "cpu" for value in after.values())
    if not difference <= (0.0 if on_cpu else 1e-4):
        raise ReplayMismatch(
            f"Step {record.step} can't be replayed from what the recorder sees: the weights differ by {difference:.1e} "
            f"(relative L2). The loop does something that is not recorded: gradient clipping or accumulation, another "
            f"loss or reduction than the recorder has, autocast, batches other than train_set[indices] (take them from "
            f"hg.indexed(loader), or pass the batch to step() and store_batches=True), or weights set by hand. Take it "
            f"out of the step."
        )
