"""What a person sees: one console, tables, errors without tracebacks, and JSON on request."""

import errno
import json
import os
import sys
import textwrap
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hydragrad.errors import HydragradError

if TYPE_CHECKING:
    import typer

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

UNBOUNDED = 10_000
"""Columns of a file or pipe: nothing is wrapped there, so that lines can be searched."""


def say(text: str) -> None:
    """Print a line; a terminal breaks it between words, and never inside a path."""
    _write(console, text)


def complain(text: str) -> None:
    """Print a line on standard error."""
    _write(errors, text)


def table(title: str, rows: Mapping[str, str | Text]) -> None:
    """Print names and values."""
    grid = _grid(show_header=False)
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for name, value in rows.items():
        grid.add_row(name, Text(value) if isinstance(value, str) else value)
    _show(title, grid)


def columns(
    title: str, headings: Sequence[str], rows: Iterable[Sequence[str | Text]], *, left: Collection[str] = ()
) -> None:
    """Print a table with headings; columns are right-aligned, except those named in `left`."""
    grid = _grid(show_header=True)
    for heading in headings:
        grid.add_column(Text(heading), justify="left" if heading in left else "right", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    _show(title, grid)


def _grid(*, show_header: bool) -> Table:
    return Table(show_header=show_header, header_style="dim", box=None, padding=(0, 2, 0, 0), pad_edge=False)


def _show(title: str, grid: Table) -> None:
    console.print()
    _write(console, title, style="bold")
    to = console if console.is_terminal else Console(file=console.file, width=UNBOUNDED, highlight=False)
    to.print(grid)


def _write(to: Console, text: str, style: str | None = None) -> None:
    if to.is_terminal:
        wrapper = textwrap.TextWrapper(width=to.width, break_long_words=False, break_on_hyphens=False)
        text = "\n".join(wrapper.fill(line) for line in text.split("\n"))
    to.print(text, markup=False, soft_wrap=True, style=style)


def write_json(path: Path | None, values: Mapping[str, Any]) -> None:
    """Write a command's figures as flat JSON, if a file is named."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=1) + "\n")


def percent(share: float | None) -> str:
    """Format a share as a percentage; a dash where there is none."""
    return "-" if share is None else f"{100 * share:.1f} %"


def number(value: float | None) -> str:
    """Format a measured number; a dash where it is not defined."""
    return "-" if value is None else f"{value:.3g}"


PATH_ERRORS = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC),
)
"""Errors of a path that the user named, rather than of the library."""


def run_app(app: "typer.Typer") -> None:
    """Run a typer application on sys.argv, and exit with its code."""
    import typer  # slow to import

    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        if not (hasattr(error, "show") and hasattr(error, "exit_code")):
            raise
        error.show()  # a usage error of typer's, whose base class it does not export
        code = error.exit_code
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def person_friendly() -> Iterator[None]:
    """Turn expected errors and warnings into lines, and errors into exit codes: 1 a mistake, 130 Ctrl-C."""
    before = warnings.showwarning

    def show(message: Any, category: Any, *_rest: Any, **_more: Any) -> None:
        if not issubclass(category, DeprecationWarning | FutureWarning):
            complain(f"warning: {message}")

    warnings.showwarning = show
    try:
        yield
    except HydragradError as error:
        complain(f"error: {_message(error)}")
        sys.exit(1)
    except KeyboardInterrupt:
        complain("interrupted: finished work is saved; repeat the command to resume (train: with --resume).")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in PATH_ERRORS:
            raise
        path = f"{error.filename}: " if error.filename is not None else ""
        complain(f"error: {path}{error.strerror}. Name another place, or make this one readable and writable.")
        sys.exit(1)
    finally:
        warnings.showwarning = before


def _message(error: HydragradError) -> str:
    return str(error.args[-1]) if error.args else type(error).__name__
