"""Progress bars on long work: on a terminal only, and silenced as a whole by `quiet`."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_shown: ContextVar[bool] = ContextVar("progress_shown", default=True)


class Bar:
    """A running count; `advance` moves it, `note` puts a short text beside it."""

    def __init__(self, progress: Progress | None, stage: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(stage, total=total, note="") if progress else None

    def advance(self, steps: int = 1) -> None:
        """Move on."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, steps)

    def note(self, text: str) -> None:
        """Show a short text beside the bar."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, note=text)


@contextmanager
def bar(stage: str, total: int, done: int = 0) -> Iterator[Bar]:
    """Show a bar for one stage of work on standard error, if that is a terminal; bars inside it are not shown."""
    console = Console(stderr=True)
    if not (_shown.get() and console.is_terminal):
        yield Bar(None, stage, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        shown = Bar(progress, stage, total)
        shown.advance(done)
        _shown.set(False)
        try:
            yield shown
        finally:
            _shown.set(True)


def silence() -> None:
    """Show no progress from here on: a worker's bars would be drawn over those of its parent."""
    _shown.set(False)


@contextmanager
def quiet(silent: bool = True) -> Iterator[None]:
    """Show no progress inside."""
    token = _shown.set(_shown.get() and not silent)
    try:
        yield
    finally:
        _shown.reset(token)
