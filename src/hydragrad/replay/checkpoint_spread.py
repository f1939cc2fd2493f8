"""Which checkpoints stand for a run: evenly spread over its steps, however they were spaced while recording."""

from typing import Literal

import numpy as np

from hydragrad.replay.recording import Recording
from hydragrad.runs.checkpoints import Checkpoint


def spread_steps(
    run: Recording, count: int, *, at: Literal["ends", "starts"] = "ends", power: float = 1.0
) -> list[int]:
    """Steps of the recorded checkpoints nearest to the ends, or starts, of equal parts of the run, in order.

    A checkpoint that is nearest to several parts is listed once, so there are fewer where checkpoints are few.

    Args:
        run: The recorded run.
        count: How many parts.
        power: Above 1, parts grow as the run goes on: the k-th of n ends at the share (k / n) ** power of the steps.
        at: "ends": up to the trained weights, without the start. "starts": from the start, without the trained weights.
    """
    length = len(run.steps)
    starts = [start for start, _ in run.segments]
    if at == "ends":
        recorded, wanted = np.array([*starts[1:], length]), length * (np.arange(1, count + 1) / count) ** power
    else:
        recorded, wanted = np.array(starts), length * (np.arange(count) / count) ** power
    return sorted({int(recorded[np.abs(recorded - step).argmin()]) for step in wanted})


def checkpoint_at(run: Recording, step: int) -> Checkpoint:
    """The recorded checkpoint before a step, or the run's end."""
    return run.last if step == len(run.steps) else run.checkpoint(step)
