"""What runs jobs elsewhere: the one protocol that processes, Ray and other executors are fitted to."""

from collections.abc import Collection
from typing import Any, Protocol

from hydragrad.execution.shipping import Done


class LostJob(Exception):
    """The worker that did a job is gone: the job must be done again."""


class AnotherTry(Exception):
    """The job must be submitted again, and nobody is to blame."""


class Pool(Protocol):
    """Workers that one kind of work was shipped to.

    Attributes:
        room: Jobs that may wait or run at the same time.
        losses: Lost jobs that are done again, before the call gives up.
    """

    room: int
    losses: int

    def submit(self, job: Any) -> Any:
        """Start a job; returns its handle."""
        ...

    def wait(self, handles: Collection[Any]) -> Collection[Any]:
        """Wait until at least one job has ended; returns the handles of those that have."""
        ...

    def result(self, handle: Any) -> Done:
        """What an ended job gave.

        Raises:
            LostJob: Its worker is gone.
            AnotherTry: It has to be submitted again.
        """
        ...

    def close(self, handles: Collection[Any]) -> None:
        """Cancel jobs that have not ended, and release what the pool holds."""
        ...
