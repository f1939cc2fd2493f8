"""A recorded run as it would have been with other loss weights, ready to be differentiated there."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from hydragrad.replay.recording import Recording
from hydragrad.replay.replay import Replay
from hydragrad.runs.checkpoints import Checkpoint


class Reweighted(Recording):
    """The same start, order and randomness; every sample's loss times its weight.

    Args:
        run: The recorded run.
        weights: Loss weight of every training sample, (samples,).
        memory: Bytes for checkpoints, evenly spaced, which are kept in memory.

    Cost: one training, when made.
    """

    def __init__(self, run: Recording, weights: Tensor, *, memory: int) -> None:
        own = {name: value for name, value in vars(run).items() if name != "final"}
        vars(self).update(own)
        self.loss_weights = weights.to(run.device)
        starts = [start for start, _ in run.segments]
        thinning = -(-len(starts) * 2 * run.initial.bytes // max(1, memory))
        wanted = set(starts[:: max(1, thinning)])
        self._kept: dict[int, Checkpoint] = {}
        with self.replay() as replay:
            replay.trajectory.restore(run.initial)
            for record in run.steps:
                if record.step in wanted:
                    self._kept[record.step] = replay.trajectory.checkpoint(record.step)
                replay.advance(record, run.batches(record))
            self.final = replay.trajectory.checkpoint(len(run.steps))

    @property
    def segments(self) -> list[tuple[int, int]]:
        """Stretches of steps [start, stop), each starting at a checkpoint in memory."""
        starts = sorted(self._kept)
        return list(zip(starts, [*starts[1:], len(self.steps)], strict=True))

    def checkpoint(self, step: int) -> Checkpoint:
        """The checkpoint before `step`."""
        return self.final if step == len(self.steps) else self._kept[step]

    def has_checkpoint(self, step: int) -> bool:
        """Whether there is a checkpoint before `step`."""
        return step in self._kept or step == len(self.steps)

    @contextmanager
    def replay(self) -> Iterator[Replay]:
        """Replay steps with the weights."""
        with super().replay() as replay:
            replay.loss_weights = self.loss_weights
            yield replay
