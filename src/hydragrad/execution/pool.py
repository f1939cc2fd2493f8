"""What runs jobs elsewhere: the one protocol that processes, Ray and other executors are fitted to."""

from collections.abc import Collection
from typing import Any, Protocol

from hydragrad.errors import WorkerLost
from hydragrad.execution.shipping import Done


class AnotherTry(Exception):
    """The job must be submitted again."""


class Pool(Protocol):
    """Workers that one kind of work was shipped to.

    Attributes:
        room: Jobs that may wait or run at the same time.
    """

    room: int

    def submit(self, job: Any) -> Any:
        """Start a job; returns its handle.

        Raises:
            WorkerLost: Workers were lost too often.
        """
        ...

    def wait(self, handles: Collection[Any]) -> Collection[Any]:
        """Wait until at least one job has ended; returns the handles of those that have."""
        ...

    def result(self, handle: Any) -> Done:
        """What an ended job gave.

        Raises:
            AnotherTry: Its worker was lost, or was the wrong one.
            WorkerLost: Workers were lost too often.
        """
        ...

    def close(self, handles: Collection[Any]) -> None:
        """Cancel jobs that have not ended, and release what the pool holds."""
        ...


def worker_lost(error: Exception) -> WorkerLost:
    """The refusal to do a job once more."""
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    return WorkerLost(
        f"Every job must come to its end, and the worker of one was lost: {reason}. It was killed, or ran out of "
        f"memory. Finished results are saved: give fewer workers, or workers with more memory, and call again."
    )
