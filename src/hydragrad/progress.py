"""Progress bars for long work: on a terminal only; `quiet` hides them all."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.text import Text

_shown: ContextVar[bool] = ContextVar("progress_shown", default=True)

SHORT_STAGE_SECONDS = 2.0
"""A finished bar disappears if its stage took less than this."""


class Bar:
    """A running count; `advance` moves it, `note` puts a short text below it."""

    def __init__(self, progress: Progress | None, stage: str, total: int, unit: str, done: int) -> None:
        self._progress = progress
        if progress is not None:
            self._task = progress.add_task(stage, total=total, completed=done, note="", unit=unit, before=done)

    def advance(self, steps: int = 1) -> None:
        """Count further steps as done."""
        if self._progress is not None:
            self._progress.advance(self._task, steps)

    def note(self, text: str) -> None:
        """Show a short text below the bar."""
        if self._progress is not None:
            self._progress.update(self._task, note=text)


@contextmanager
def bar(stage: str, total: int, done: int = 0, *, unit: str = "steps") -> Iterator[Bar]:
    """Show a bar for one stage of work on standard error, if that is a terminal.

    A bar inside another one is not shown, nor is a bar with a total of 1.

    Args:
        stage: Name of the stage.
        total: Number of units of work.
        done: How many of them were done before.
        unit: What is counted, in the plural.
    """
    console = Console(stderr=True)
    if not (_shown.get() and is_live(console) and total > 1):
        yield Bar(None, stage, total, unit, done)
        return
    with _Lines(_Stage(), BarColumn(bar_width=None), _Count(), _Rate(), _Time(), console=console) as progress:
        current = Bar(progress, stage, total, unit, done)
        token = _shown.set(False)
        try:
            yield current
        finally:
            _shown.reset(token)
            progress.live.transient = (progress.tasks[0].elapsed or 0) < SHORT_STAGE_SECONDS


def is_live(console: Console) -> bool:
    """Return whether the console is a real terminal that can move its cursor."""
    # FORCE_COLOR makes rich treat a file as a terminal; bars in a file are noise.
    return console.is_terminal and not console.is_dumb_terminal and console.file.isatty()


def silence() -> None:
    """Show no progress in this process: a worker's bars would overwrite those of its parent."""
    _shown.set(False)


@contextmanager
def quiet(silent: bool = True) -> Iterator[None]:
    """Show no progress inside the block."""
    token = _shown.set(_shown.get() and not silent)
    try:
        yield
    finally:
        _shown.reset(token)


class _Lines(Progress):
    """The bar, and below it the note, cut where the line ends."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["note"] and not task.finished:
                yield Text(task.fields["note"], style="dim", no_wrap=True, overflow="ellipsis")

    @classmethod
    def get_default_columns(cls) -> tuple[ProgressColumn, ...]:
        return ()


class _Stage(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.description, no_wrap=True)


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{int(task.completed):,}/{int(task.total or 0):,} {task.fields['unit']}", no_wrap=True)


class _Rate(ProgressColumn):
    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        completed = task.completed - task.fields["before"]
        if not completed or not elapsed:
            return Text("")
        rate = task.speed if task.speed and not task.finished else completed / elapsed
        return Text(f"{rate:.3g}/s" if rate >= 1 else f"{1 / rate:.3g} s each", no_wrap=True)


class _Time(ProgressColumn):
    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        if task.finished:
            return Text(f"took {clock(task.finished_time or 0)}", no_wrap=True)
        left = task.time_remaining
        return Text("" if left is None else f"{clock(left)} left", no_wrap=True)


def clock(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
