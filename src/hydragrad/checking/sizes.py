"""Sizes of what a training's record, sweeps and rows take, from those of its two recorded steps."""

import math
from dataclasses import dataclass

from hydragrad.checking.setup import Setup
from hydragrad.replay import Recording
from hydragrad.replay.histories import run_histories, state_names, trained_layout
from hydragrad.runs.log import LOG
from hydragrad.training import checkpoint_distance

ROWS = 1 << 26
"""Bytes that the rows may take which a check tracks."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes, in bytes where nothing else is said.

    Attributes:
        weights: Of the trained parameters.
        state: Of a checkpoint's tensors: parameters, buffers, optimizer states.
        checkpoint: Of its file.
        line: Of a step in the log.
        once: Of what a run directory has once.
        columns: Numbers of a row.
        accumulators: Numbers of a row a column, while it grows.
        itemsize: Of a number.
    """

    weights: int
    state: int
    checkpoint: int
    line: float
    once: int
    columns: int
    accumulators: int
    itemsize: int

    def run_directory(self, steps: int) -> int:
        """The run directory of hg.train after so many steps."""
        checkpoints = steps // checkpoint_distance(steps) + 2
        return self.once + checkpoints * self.checkpoint + math.ceil(steps * self.line)

    def attribution(self, *, swept: bool, steps: int, most: int) -> int:
        """One query: a copy that is replayed, and its direction; in a sweep also a segment's states.

        Args:
            swept: Whether the run is swept from its end.
            steps: Of the run.
            most: What replayed states may take.
        """
        copy, direction = self.state + self.weights, self.weights
        if not swept:
            return copy + 2 * direction
        segment = min(most, checkpoint_distance(steps) * self.state)
        return copy + self.accumulators * direction + segment

    def rows(self, samples: int, accumulators: int, *, every_row: bool = False) -> int:
        """Rows of so many samples, with copies of all where a step moves all."""
        copies = 2 * accumulators + 2 if every_row else 0
        return samples * self.columns * (copies * max(4, self.itemsize) + accumulators * self.itemsize)


def sizes_of(run: Recording) -> Sizes:
    """Sizes of a recorded run."""
    final, histories = run.final, run_histories(run)
    columns = trained_layout(run, histories).size
    like = next(iter(final.parameters.values()))
    tensors = [*final.parameters.values(), *final.buffers.values()]
    tensors += [value for values in final.optimizer.values() for value in values.values() if hasattr(value, "nbytes")]
    checkpoints = sorted((run.path / "checkpoints").glob("step-*"))
    log = (run.path / LOG).stat().st_size
    every = sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())
    return Sizes(
        weights=columns * like.element_size(),
        state=sum(tensor.nbytes for tensor in tensors),
        checkpoint=checkpoints[-1].stat().st_size,
        line=log / len(run.steps),
        once=every - log - sum(file.stat().st_size for file in checkpoints),
        columns=columns,
        accumulators=1 + len(state_names(histories)),
        itemsize=like.element_size(),
    )


def tracked_samples(setup: Setup, sizes: Sizes, *, every_row: bool) -> list[int]:
    """Samples that a check tracks: all of the two steps, unless their rows take too much."""
    row = sizes.rows(1, sizes.accumulators, every_row=every_row)
    return list(range(max(1, min(len(setup.data), ROWS // row))))  # type: ignore[arg-type]
