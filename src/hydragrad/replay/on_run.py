"""Work on a recorded run that may be done on another machine, by its files there or by a copy of them."""

import copy
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

from hydragrad.replay.recording import Recording


class OnRun(ABC):
    """Work on a run, one job at a time: what `run_jobs` takes, a class so that it can be sent to workers.

    Attributes:
        run: The run, as this process reads it.
    """

    def __init__(self, run: Recording) -> None:
        self.run = run

    @abstractmethod
    def __call__(self, job: Any) -> Any:
        """Do one job."""

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.run.path

    @property
    def files(self) -> list[Path]:
        """The files that replays read."""
        return self.run.files

    @property
    def on_gpu(self) -> bool:
        """Whether the run's model lies on a GPU."""
        return self.run.device.type == "cuda"

    def moved_to(self, folder: Path) -> Self:
        """The same work on a copy of the run directory."""
        moved = copy.copy(self)
        moved.run = self.run.moved_to(folder)
        return moved
