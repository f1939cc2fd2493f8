"""Resuming: how far a killed run got, and whether model, data and options are those that it was recorded with."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from hydragrad.errors import RecordingMismatch, RunDamaged, RunNotFound
from hydragrad.replay.machine import this_machine, warn_other_machine
from hydragrad.runs.checkpoints import Checkpoint, CheckpointFolder
from hydragrad.runs.lines import read_lines
from hydragrad.runs.log import ENTRIES, LOG, StepRecord
from hydragrad.runs.manifest import FILE, Manifest, read_manifest, require_same_model
from hydragrad.runs.processes import part_of, parts_of
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
        require_among(path, at, steps)
        steps = [step for step in steps if step <= at]
    if not steps:
        return Progress(None, None, 0)
    last = max(steps)
    return Progress(folder.read(last, entries[last]), records[last - 1] if last else None, len(steps))


def read_common_progress(run: Path, rank: int, count: int, at: int | None = None) -> Progress:
    """Read how far all of several processes got: the last checkpoint that every one of them has.

    Whoever looks first may begin at once: no rank completes a step before all have looked, so all see the same.

    Args:
        run: Run directory.
        rank: Of this process.
        count: How many processes there are.
        at: The step to resume with; the last that all have if None.

    Raises:
        RunNotFound: Rank 0's part can't be seen from here.
        RunDamaged: The part of another rank is missing.
        RecordingMismatch: Another number of processes, or no checkpoint before the step `at`.
    """
    if not (run / FILE).exists():
        if _log_length(part_of(run, rank)) > 1:
            raise RunNotFound(
                f"Rank {rank} resumes from the checkpoints of rank 0, in {run}; no run is there. Record into a folder "
                f"that all ranks see, or delete {part_of(run, rank)} and record a new run."
            )
        return Progress(None, None, 0)
    manifest = read_manifest(run)
    if manifest.processes != count:
        raise RecordingMismatch(
            f"{run} was recorded by {manifest.processes} processes, and {count} resume it: their batches would be "
            f"others. Start as many as before, or record a new run."
        )
    folders = [part_of(run, number) for number in range(count)]
    if _log_length(run) > 1:
        folders = parts_of(run, manifest)
    entries = [_entries(folder) for folder in folders]
    reached = min(map(_log_length, folders))
    common = sorted(step for step in set(entries[0]).intersection(*entries) if step <= reached)
    if at is not None:
        require_among(run, at, common)
        common = [step for step in common if step <= at]
    last = common[-1] if common else 0
    if last not in entries[0]:
        return Progress(None, None, 0)
    checkpoint = CheckpointFolder(run).read(last, entries[0][last])
    if rank:
        own = None
        if last in entries[rank]:
            own = CheckpointFolder(folders[rank]).read(last, entries[rank][last])
        checkpoint = dataclasses.replace(
            checkpoint,
            generators={} if own is None else own.generators,
            sampler={} if own is None else own.sampler,
        )
    before = None
    if last:
        before = read_steps(folders[rank], read_manifest(folders[rank]))[last - 1]
    return Progress(checkpoint, before, sum(step <= last for step in entries[rank]))


def _entries(folder: Path) -> dict[int, str]:
    checkpoints = CheckpointFolder(folder)
    return checkpoints.entries() if checkpoints.index.exists() else {}


def _log_length(folder: Path) -> int:
    return len(read_lines(folder / LOG, "steps", ENTRIES)) if (folder / LOG).exists() else 0


def require_among(path: Path, at: int, steps: list[int]) -> None:
    """Refuse to resume where there is no checkpoint.

    Raises:
        RecordingMismatch: Names those that there are.
    """
    if at not in steps:
        raise RecordingMismatch(
            f"{path} must have a checkpoint before step {at} to be resumed there; it has them before {steps}. "
            f"Resume from one of these, or record a new run from its start."
        )


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
