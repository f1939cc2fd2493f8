"""What rank 0 wrote, read by the other ranks while they train, so that ranks that depart are found at once.

Looked at are the manifest and a step that both have completed, at steps 2, 4, 8, ...: reading is no communication.
"""

import warnings
from pathlib import Path

from hydragrad.runs.log import LOG, StepRecord
from hydragrad.runs.manifest import FILE, Manifest, read_manifest
from hydragrad.runs.processes import part_of, require_same_part, require_same_step
from hydragrad.runs.steps import read_steps


class RankZero:
    """Compares this rank's steps with those of rank 0.

    Args:
        run: Run directory.
        rank: Of this process, above 0.
    """

    def __init__(self, run: Path, rank: int) -> None:
        self._run, self._rank = run, rank
        self._own: list[StepRecord] = []
        self._warned = False

    def note(self, record: StepRecord) -> None:
        """This rank completed a step."""
        self._own = [*self._own[-1:], record]

    def compare(self, step: int, manifest: Manifest) -> None:
        """Compare the last step that rank 0 must have completed, where that is due.

        Args:
            step: The one that comes next.
            manifest: Of this rank.

        Raises:
            RecordingMismatch: The ranks have other data, settings or weights.
        """
        if step < 2 or step & (step - 1) or len(self._own) < 2:
            return
        if not (self._run / FILE).exists():
            self._warn()
            return
        first = read_manifest(self._run)
        require_same_part(self._run, first, manifest, self._rank)
        steps = read_steps(self._run, first) if (self._run / LOG).exists() else []
        mine = self._own[0]
        if mine.step < len(steps):  # a file system shared by machines may be late
            require_same_step(steps[mine.step], mine, self._rank)

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"Rank {self._rank} does not see what rank 0 writes in {self._run}: every machine seems to have a disk "
                f"of its own. Copy {part_of(self._run, self._rank)} into rank 0's run directory after the training; "
                f"until then ranks are not compared, and the run can't be resumed.",
                stacklevel=4,
            )
