"""Unfinished attributions, kept in the run directory so that an interrupted one goes on where it stopped."""

import hashlib
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from hydragrad.attribution.plan import Job
from hydragrad.disk import load_sealed, save_sealed

SAVE_EVERY_SECONDS = 20.0


class Partial:
    """The state of one attribution on disk.

    Args:
        job: What is asked: another question has another file.
        method: Route and curvature.
    """

    def __init__(self, job: Job, method: str) -> None:
        settings = [method, job.method.damping, job.method.smoothing, job.classes, job.stretches, len(job.run.steps)]
        key = hashlib.sha256(json.dumps(settings).encode())
        for tensor in (job.w_bar(), job.r_bar(), job.sample_ids):
            key.update(tensor.cpu().contiguous().numpy().tobytes())
        self._path: Path = job.run.path / "scores" / f"partial-{key.hexdigest()[:16]}.safetensors"
        self._saved = time.monotonic()

    def load(self) -> dict[str, Tensor]:
        """The state kept by an interrupted attribution, or nothing."""
        try:
            return load_sealed(self._path)[0]
        except (OSError, ValueError):
            return {}

    def save(self, state: dict[str, Tensor], *, now: bool = False) -> None:
        """Keep a state, not more often than every SAVE_EVERY_SECONDS unless `now`."""
        if not now and time.monotonic() - self._saved < SAVE_EVERY_SECONDS:
            return
        try:
            save_sealed(state, self._path)
        except OSError:
            return  # A run on a read-only or full disk can be attributed, just not resumed.
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Forget the state: the attribution is done."""
        self._path.unlink(missing_ok=True)


def as_ids(values: list[int]) -> Tensor:
    """Integers as a tensor, empty ones too."""
    return torch.tensor(values, dtype=torch.int64)
