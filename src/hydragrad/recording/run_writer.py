"""The run writer: everything that a recording does to the disk."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

from hydragrad.errors import RunExists, StepError
from hydragrad.recording.data_parallel import of_a_launcher
from hydragrad.recording.resuming import Progress
from hydragrad.replay.outside_state import OUTSIDE_STATE
from hydragrad.runs import averages
from hydragrad.runs.averages import AVERAGES, Update
from hydragrad.runs.checkpoints import Checkpoint, CheckpointFolder
from hydragrad.runs.lines import AppendOnlyLines, make_folder
from hydragrad.runs.log import LOG, StepRecord, to_line
from hydragrad.runs.manifest import FILE, Manifest, Status, closed, write_manifest
from hydragrad.runs.processes import RANKS, never_common, position_only
from hydragrad.runs.stored_batches import store_batch, sync_batches
from hydragrad.runs.unstarted import clear_away, never_started

OWN_FILES = (LOG, AVERAGES, "checkpoints.jsonl", "checkpoints", "batches", "scores")
NONE_YET = -1
"""Stands for the step of the last checkpoint before there is one."""


class RunWriter:
    """Writes one run directory: manifest, step log, checkpoints and stored batches.

    `start` or `resume` it once, then write, then `finish`; `close` it in any case.

    Args:
        path: Run directory.
        checkpoint_every: Steps between checkpoints; if None, the distance grows with the square root of the steps.

    Attributes:
        manifest: As it was last written.
        last_checkpoint: The step of the last checkpoint, -1 before the first.
        resumed: Whether the run was there before.
    """

    def __init__(self, path: Path, checkpoint_every: int | None = None) -> None:
        self.path = path
        self._checkpoint_every = checkpoint_every
        self._folder = CheckpointFolder(path)
        self._last: StepRecord | None = None
        self._made_folder = False
        self._files = ExitStack()
        self.last_checkpoint = NONE_YET
        self.resumed = False
        self.manifest: Manifest
        self._log: AppendOnlyLines
        self._index: AppendOnlyLines
        self._averages: AppendOnlyLines | None = None  # until there is an update to write

    def require_free(self) -> None:
        """Refuse a directory that holds a run, or files of one, unless the run never got through its first step.

        Raises:
            RunExists: Names the files.
        """
        present = self._present()
        if present and not (never_started(self.path) or never_common(self.path)):
            raise RunExists(
                f"{self.path} already holds a run ({', '.join(present)}). Choose another directory, delete it, or "
                f"resume the run with resume=True (--resume).{of_a_launcher()}"
            )

    def start(self, manifest: Manifest) -> None:
        """Start a run in a directory that is free."""
        if self._present():
            clear_away(self.path)
        self._made_folder = not self.path.exists() or (manifest.processes > 1 and _holds_ranks_only(self.path))
        make_folder(self.path)
        self.manifest = manifest
        self._open_files()  # first: of two processes that record into one folder, the second writes nothing
        self._write_manifest(manifest)

    def resume(self, manifest: Manifest, progress: Progress) -> None:
        """Continue a run from its last checkpoint; steps after it are dropped."""
        self._open_files(steps=progress.step, checkpoints=progress.checkpoints)
        updates = averages.updates_until(averages.read_updates(self.path), progress.step)
        if (self.path / AVERAGES).exists():
            self._averages = self._opened_averages(keep=updates)
        self._last, self.resumed = progress.before, True
        self.last_checkpoint = progress.step if progress.checkpoints else NONE_YET
        self._write_manifest(dataclasses.replace(manifest, status="running", steps=None))

    def write_step(self, record: StepRecord) -> None:
        """Append a step to the log."""
        self._log.append(to_line(record, self._last))
        self._last = record

    def write_update(self, update: Update) -> None:
        """Append an update of an average."""
        if self._averages is None:
            self._averages = self._opened_averages()
        self._averages.append(averages.to_line(update))

    def checkpoint_due(self, step: int) -> bool:
        """Whether a checkpoint is due before a step."""
        distance = self._checkpoint_every or max(1, math.isqrt(step))
        return self.last_checkpoint == NONE_YET or step - self.last_checkpoint >= distance

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, once everything before it is safe from a power loss."""
        if self.manifest.store_batches:
            sync_batches(self.path, max(0, self.last_checkpoint), checkpoint.step)
        self._log.sync()
        if self._averages is not None:
            self._averages.sync()
        self._folder.write(position_only(checkpoint) if self.manifest.rank else checkpoint, self._index)
        self.last_checkpoint = checkpoint.step

    def store_batch(self, step: int, number: int, batch: Any) -> None:
        """Store a micro-batch of a step.

        Raises:
            StepError: There is none.
            Unsupported: It holds something that can't be stored.
        """
        if batch is None:
            raise StepError(
                "With store_batches=True the batch must be given, and none was: call recorder.step(indices, batch)."
            )
        store_batch(self.path, step, batch, number)

    def finish(
        self, status: Status, steps: int, outside_state: Sequence[str] = (), averaged: Sequence[str] = ()
    ) -> None:
        """Note in the manifest how the run ended, after how many steps.

        Args:
            status: How.
            steps: After how many.
            outside_state: The model's state outside its buffers.
            averaged: Names of the averages of its weights.
        """
        about = self.manifest.about | ({OUTSIDE_STATE: list(outside_state)} if outside_state else {})
        if averaged:
            counts = Counter(update.name for update in averages.read_updates(self.path))
            about |= {averages.ABOUT: {name: counts[name] for name in averaged}}
        self._write_manifest(closed(dataclasses.replace(self.manifest, about=about), status, steps))

    def note(self, **entries: Any) -> None:
        """Write the manifest again with some entries changed."""
        self._write_manifest(dataclasses.replace(self.manifest, **entries))

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def discard(self) -> None:
        """Remove a run that failed in its first step, so that nothing is in the way of the next attempt."""
        self.close()
        with suppress(OSError):
            clear_away(self.path)
            if self._made_folder:
                self.path.rmdir()  # unless somebody put something there
            if self.manifest.rank:
                self.path.parent.rmdir()  # and the run's, unless rank 0 left something there
                self.path.parent.parent.rmdir()

    def _present(self) -> list[str]:
        return [name for name in (FILE, *OWN_FILES) if (self.path / name).exists()]

    def _write_manifest(self, manifest: Manifest) -> None:
        self.manifest = manifest
        write_manifest(self.path, manifest)

    def _opened_averages(self, *, keep: int = 0) -> AppendOnlyLines:
        return self._files.enter_context(closing(AppendOnlyLines(self.path / AVERAGES, keep=keep)))

    def _open_files(self, *, steps: int = 0, checkpoints: int = 0) -> None:
        """Open the log and the index of checkpoints at their first lines."""
        self._log = self._files.enter_context(closing(AppendOnlyLines(self.path / LOG, keep=steps)))
        self._index = self._files.enter_context(closing(AppendOnlyLines(self._folder.index, keep=checkpoints)))


def _holds_ranks_only(path: Path) -> bool:
    """Whether another rank made the folder, for its own part."""
    return [file.name for file in path.iterdir()] == [RANKS]
