"""Rows and arrays of a study in files: what is saved is not measured again."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hydragrad.disk import replace_file
from hydragrad.runs.lines import AppendOnlyLines, read_lines

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]

Row = TypeVar("Row")


def saved_rows(kind: type[Row], file: Path) -> list[Row]:
    """Return the rows that earlier calls have written."""
    if not file.exists():
        return []
    lines = read_lines(file, "rows")
    return [kind(**{name: value for name, value in line.items() if name != "crc32"}) for line in lines]


def append_rows(file: Path, rows: Iterable[Any]) -> None:
    """Append rows (dataclasses) in one write; a torn last line is dropped.

    Studies that run at the same time may share a file: each waits until the others have written.
    """
    with _locked(file):
        _append(file, rows)


def replace_rows(file: Path, rows: Sequence[Row], key: Callable[[Row], object]) -> None:
    """Write rows, in place of saved ones with the same keys."""
    with _locked(file):
        new = {key(row) for row in rows}
        others = [row for row in saved_rows(type(rows[0]), file) if key(row) not in new]
        unfinished = file.with_suffix(".unfinished.jsonl")
        unfinished.unlink(missing_ok=True)
        _append(unfinished, [*others, *rows])
        os.replace(unfinished, file)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with open(file.with_suffix(".lock"), "w") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _append(file: Path, rows: Iterable[Any]) -> None:
    log = AppendOnlyLines(file, keep=len(read_lines(file, "rows")) if file.exists() else 0)
    for row in rows:
        log.append(asdict(row))
    log.sync()
    log.close()


def saved_array(file: Path, measure: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the array in a file, or measure and save it; a kill leaves a whole file or none."""
    if file.exists():
        saved: NDArray[np.float64] = np.load(file)
        return saved
    values = measure()
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, lambda to: _save_array(to, values), several=True)
    return values


def _save_array(file: Path, values: NDArray[np.float64]) -> None:
    with open(file, "wb") as opened:  # a path would get another ending
        np.save(opened, values)
