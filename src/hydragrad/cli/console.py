"""What a person sees: one console, tables, errors without tracebacks, and JSON on request."""

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hydragrad.errors import HydragradError

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a line."""
    console.print(text, markup=False)


def table(title: str, rows: Mapping[str, str]) -> None:
    """Print names and values."""
    grid = Table(title=title, show_header=False, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name, value in rows.items():
        grid.add_row(name, value)
    console.print(grid)


def write_json(path: Path | None, values: Mapping[str, Any]) -> None:
    """Write a command's figures as flat JSON, if a file was asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=1) + "\n")


def percent(share: float | None) -> str:
    """A share as a percentage."""
    return "-" if share is None else f"{100 * share:.1f} %"


def number(value: float | None) -> str:
    """A measured number; a dash where it is not defined."""
    return "-" if value is None else f"{value:.3g}"


@contextmanager
def person_friendly() -> Iterator[None]:
    """Turn expected errors and warnings into lines, and errors into exit codes: 1 a mistake, 130 Ctrl-C."""
    before = warnings.showwarning

    def show(message: Any, category: Any, *_rest: Any, **_more: Any) -> None:
        if not issubclass(category, DeprecationWarning | FutureWarning):
            errors.print(f"warning: {message}", markup=False)

    warnings.showwarning = show
    try:
        yield
    except HydragradError as error:
        errors.print(f"error: {_message(error)}", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("interrupted: what was done so far is kept; give the same command to go on (train: --resume).")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    finally:
        warnings.showwarning = before


def _message(error: HydragradError) -> str:
    return str(error.args[-1]) if error.args else type(error).__name__
