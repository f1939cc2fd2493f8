"""Lines with checksums, appended one by one, which survive a kill at any moment."""

import errno
import json
import os
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from hydragrad.disk import make_folder as make_folder
from hydragrad.disk import reading as reading
from hydragrad.disk import replace_file as replace_file
from hydragrad.disk import save_file as save_file
from hydragrad.disk import writing as writing
from hydragrad.errors import RunDamaged, RunExists

try:
    import fcntl
except ImportError:  # Windows, where files are not locked
    fcntl = None  # type: ignore[assignment]

PATIENCE = 10.0
"""Seconds for which the data loader's workers of a killed process may still hold its files: they look every five."""
CHECKSUM = ', "crc32": "'


def sealed(record: dict[str, Any]) -> str:
    """Encode a record as one line of JSON whose last entry is the checksum of what stands before it."""
    body = json.dumps(record)[:-1]
    return f'{body}{CHECKSUM}{zlib.crc32(body.encode()):08x}"}}'


def unsealed(line: str) -> dict[str, Any] | None:
    """Decode a sealed line; None if it is torn or altered."""
    body, found, tail = line.rstrip("\n").rpartition(CHECKSUM)
    if not found or tail != f'{zlib.crc32(body.encode()):08x}"}}':
        return None
    record: dict[str, Any] = json.loads(body + "}")
    return record


class AppendOnlyLines:
    """A file of sealed lines. Every line is handed to the system at once, so a killed process loses none.

    Args:
        path: Made if it is not there.
        keep: Keep this many lines and drop the rest (a run that goes on from its last checkpoint).

    Raises:
        RunExists: The file is being written, here or in another process.
    """

    def __init__(self, path: Path, *, keep: int = 0) -> None:
        self.path = path
        with writing(path):
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
        if not _lock(self._file):
            self._file.close()
            raise RunExists(
                f"{path.parent} is being recorded now, here or in another process. Wait until that ends, or stop it; "
                f"then go on with the run: resume=True (--resume)."
            )
        with open(path, "rb+") as file:
            for _ in range(keep):
                file.readline()
            file.truncate(file.tell())

    def append(self, record: dict[str, Any]) -> None:
        """Append one record."""
        with writing(self.path):
            line = (sealed(record) + "\n").encode()
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, "short write")

    def sync(self) -> None:
        """Make sure that the lines survive a power loss."""
        with writing(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; worker processes that were forked meanwhile hold it no longer."""
        if not self._file.closed:
            _unlock(self._file)
        self._file.close()


def locked(path: Path, otherwise: bool) -> bool:
    """Whether these lines are being written, here or in another process; `otherwise` where that can't be told."""
    if not path.exists():
        return False
    if fcntl is None:
        return otherwise
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return otherwise
    return False


def _lock(file: IO[bytes]) -> bool:
    """Whether nobody else writes it, or stops to within `PATIENCE`; True where that can't be told."""
    patient_until = time.monotonic() + PATIENCE
    while fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > patient_until:
                return False
            time.sleep(0.05)
        except OSError:  # a file system without locks
            return True
    return True


def _unlock(file: IO[bytes]) -> None:
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def read_lines(path: Path, what: str, entries: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Read all sealed lines; a torn last line is what a kill leaves, and is passed over.

    Args:
        path: The file.
        what: What it holds, in words.
        entries: What every record has: another file in its place has not.

    Raises:
        RunDamaged: A line before the last is torn or altered, or it is another file.
    """
    with reading(path):
        there = path.exists()
    if not there:
        raise RunDamaged(f"{path} is missing, so the run can't be read. Restore it from a copy, or train again.")
    with reading(path), open(path, encoding="utf-8", errors="replace") as file:
        lines = file.readlines()
    records = []
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith("\n"):
            break
        record = unsealed(line)
        if record is None:
            raise RunDamaged(
                f"Line {number} of {path} ({what}) does not have the checksum it was written with: the file was "
                f"altered or damaged. Restore it from a copy, or train again."
            )
        if not all(entry in record for entry in entries):
            raise RunDamaged(
                f"Line {number} of {path} must be one of the {what}, with {', '.join(entries)}; it has "
                f"{', '.join(list(record)[:4]) or 'nothing'}. Another file is in its place: restore it from a copy, or "
                f"train again."
            )
        records.append(record)
    return records
