"""The steps of a run directory, read."""

from pathlib import Path

from hydragrad.runs.lines import read_lines
from hydragrad.runs.log import ENTRIES, LOG, StepRecord, from_lines
from hydragrad.runs.manifest import Manifest


def read_steps(run: Path, manifest: Manifest) -> list[StepRecord]:
    """Read all complete steps.

    Raises:
        RunDamaged: The step log is missing or altered.
    """
    lines = read_lines(run / LOG, "steps", ENTRIES)
    return list(from_lines(lines, seed=manifest.seed, reduction=manifest.reduction))
