"""The steps of a run directory, read."""

from pathlib import Path

from hydragrad.runs.lines import read_lines
from hydragrad.runs.log import LOG, StepRecord, from_lines
from hydragrad.runs.manifest import Manifest


def read_steps(run: Path, manifest: Manifest) -> list[StepRecord]:
    """Read all complete steps.

    Raises:
        RunDamaged: The step log is missing or altered.
    """
    return list(from_lines(read_lines(run / LOG, "steps"), seed=manifest.seed, reduction=manifest.reduction))
