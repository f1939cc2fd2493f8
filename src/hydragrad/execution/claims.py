"""Jobs that a process works on, so that no other does: a locked file each, which a kill leaves unlocked.

Claims only save work. Where two processes do the same job all the same (a file system without locks), each writes the
same result, in one step.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from hydragrad.execution.part import Part

FOLDER = "claims"


def claimed(numbers: Sequence[int], names: Sequence[str], part: Part | None, claims: "Claims") -> Iterator[int]:
    """The jobs that this call does, one by one: those of a slice first, and of all others those that nobody works on.

    Args:
        numbers: Of the jobs.
        names: What each job is claimed by.
        part: The slice; None: all jobs, whoever works on them.
        claims: The call's claims, in which those of a slice are entered.
    """
    for number in numbers if part is None else part.first_own(numbers):
        if part is None or claims.take(names[number]):
            yield number


@contextmanager
def exclusive(folder: Path, name: str = "exclusive") -> Iterator[None]:
    """Wait until no other process is in the same block, as far as the file system has locks."""
    path = folder / f".{name}.lock"
    with ExitStack() as stack:
        with suppress(OSError, NotImplementedError):
            stack.enter_context(FileLock(path))
            stack.callback(path.unlink, missing_ok=True)
        yield


class Claims:
    """The claims of one call; those that are still held when it ends are given up.

    Args:
        folder: Where the results lie; the locked files are in a folder of it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._held: dict[str, FileLock] = {}

    def take(self, name: str) -> bool:
        """Claim a job; False where another process works on it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._folder / f"{name}.lock")
            lock.acquire(timeout=0)
        except Timeout:
            return False
        except (OSError, NotImplementedError):  # no locks here: the job may be done twice
            return True
        self._held[name] = lock
        return True

    def drop(self, name: str) -> None:
        """Give up a claim."""
        lock = self._held.pop(name, None)
        if lock is not None:
            with suppress(OSError):  # while it is held: who takes it later finds a new file
                Path(lock.lock_file).unlink()
            lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name in list(self._held):
            self.drop(name)
        with suppress(OSError):  # others hold claims, or there is none
            self._folder.rmdir()
