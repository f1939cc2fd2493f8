"""Unfinished attributions, saved in the run directory so that an interrupted one resumes where it stopped."""

import time

import torch
from torch import Tensor

from hydragrad.attribution.plan import Job
from hydragrad.runs.kept import Kept, tensor_key

SAVE_EVERY_SECONDS = 20.0


class Partial:
    """The state of one attribution on disk.

    Args:
        job: What is attributed: another run, another query or other options have another file.
        method: Route and curvature.
    """

    def __init__(self, job: Job, method: str) -> None:
        tensors = [tensor_key(tensor) for tensor in (job.w_bar(), job.r_bar(), job.sample_ids)]
        key = [job.run.digest, method, job.method.damping, job.smoothing, job.classes, job.stretches, *tensors]
        self._kept = Kept(job.run.path / "scores", "partial", key)
        self._saved = time.monotonic()

    def load(self) -> dict[str, Tensor]:
        """The state that an interrupted attribution saved, or nothing."""
        result = self._kept.read()
        return {} if result is None else result[0]

    def save(self, state: dict[str, Tensor], *, now: bool = False) -> None:
        """Save a state, not more often than every SAVE_EVERY_SECONDS unless `now`.

        A run on a read-only or full disk can be attributed, just not resumed.
        """
        if not now and time.monotonic() - self._saved < SAVE_EVERY_SECONDS:
            return
        if self._kept.write(state):
            self._saved = time.monotonic()

    def remove(self) -> None:
        """Delete the state: the attribution is done."""
        self._kept.remove()


def as_ids(values: list[int]) -> Tensor:
    """Integers as a tensor, empty ones too."""
    return torch.tensor(values, dtype=torch.int64)
