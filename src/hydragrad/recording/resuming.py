"""Resuming: how far a killed run got, and whether model, data and options are those that it was recorded with."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from hydragrad.errors import RecordingMismatch, RunDamaged
from hydragrad.replay.machine import this_machine, warn_other_machine
from hydragrad.runs.checkpoints import Checkpoint, CheckpointFolder
from hydragrad.runs.log import LOG, StepRecord
from hydragrad.runs.manifest import Manifest, require_same_model
from hydragrad.runs.steps import read_steps


class Progress(NamedTuple):
    """How far a run got, as far as it can be resumed.

    Attributes:
        checkpoint: The last checkpoint that the step log reaches; None where there is none.
        before: The step before it, if there is one.
        checkpoints: The number of checkpoints up to this one.
    """

    checkpoint: Checkpoint | None
    before: StepRecord | None
    checkpoints: int

    @property
    def step(self) -> int:
        """The step that comes next."""
        return 0 if self.checkpoint is None else self.checkpoint.step


def read_progress(path: Path, manifest: Manifest, at: int | None = None) -> Progress:
    """Read how far the run in `path` got.

    Args:
        path: Run directory.
        manifest: As it was recorded.
        at: The step to resume with; that of the last checkpoint if None.

    Raises:
        RunDamaged: The step log ends before every checkpoint, or files are altered.
        RecordingMismatch: No checkpoint before the step `at`.
    """
    folder = CheckpointFolder(path)
    records = read_steps(path, manifest) if (path / LOG).exists() else []
    entries = folder.entries() if folder.index.exists() else {}
    steps = [step for step in entries if step <= len(records)]
    if entries and not steps:
        raise RunDamaged(
            f"{path / LOG} must reach the first checkpoint, before step {min(entries)}; it is shorter than the "
            f"checkpoints say, with {len(records)} steps. Restore it from a copy, or train again."
        )
    if at is not None:
        if at not in steps:
            raise RecordingMismatch(
                f"{path} must have a checkpoint before step {at} to be resumed there; it has them before {steps}. "
                f"Resume from one of these, or record a new run from its start."
            )
        steps = [step for step in steps if step <= at]
    if not steps:
        return Progress(None, None, 0)
    last = max(steps)
    return Progress(folder.read(last, entries[last]), records[last - 1] if last else None, len(steps))


def require_same_run(
    path: Path, manifest: Manifest, model: nn.Module, data: dict[str, Any], options: dict[str, Any]
) -> Manifest:
    """Refuse to resume a run with another model, data set or option; another machine is noted in the manifest.

    Args:
        path: Run directory.
        manifest: As it was recorded.
        model: The present model.
        data: Fingerprint of the present data set.
        options: Entries of the manifest that must be as they were.

    Raises:
        RecordingMismatch: Another model, data set or option.
    """
    require_same_model(manifest.model, model, path)
    decisive = ["length"] if manifest.store_batches else list(data)
    if any(data[name] != manifest.data[name] for name in decisive):
        raise RecordingMismatch(
            f"{path} was recorded on other data ({manifest.data['length']:,} samples; this data set "
            f"has {data['length']:,}, or other content). Resume it with the data set that it was recorded with."
        )
    for option, value in options.items():
        if getattr(manifest, option) != value:
            raise RecordingMismatch(
                f"{path} was recorded with {option}={getattr(manifest, option)!r}, got {value!r}. Resume it with what "
                f"it was recorded with."
            )
    machine = this_machine(next(model.parameters()).device)
    if not warn_other_machine([manifest.machine], machine) and machine not in manifest.resumed_on:
        # What is trained here can't be replayed to the bit there, nor the other way round.
        return dataclasses.replace(manifest, resumed_on=[*manifest.resumed_on, machine])
    return manifest
