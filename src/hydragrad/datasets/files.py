"""Find published files in a folder, and read them only if they are the published ones."""

import gzip
import hashlib
import lzma
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hydragrad.errors import ChecksumMismatch, DataNotFound

VARIABLE = "HYDRAGRAD_DATA"

_DECOMPRESS = {".gz": gzip.decompress, ".xz": lzma.decompress}
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


class Located(NamedTuple):
    """A folder's files, in the order of the layout that it was found to hold."""

    layout: Sequence[str]
    paths: tuple[Path, ...]


def data_folder(data_dir: str | os.PathLike[str] | None) -> Path | None:
    """Return the folder that was named: the argument, else the variable HYDRAGRAD_DATA, else None."""
    named = data_dir if data_dir is not None else os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else None


def locate(name: str, folder: Path, places: Sequence[str], layouts: Sequence[Sequence[str]]) -> Located:
    """Find a data set below a folder, as plain files or each compressed with gzip or xz.

    Args:
        name: The data set's, for the message.
        folder: The data folder.
        places: Sub-folders to look in, the most telling first.
        layouts: Sets of file names, any one of which is the whole data set, the preferred one first.

    Raises:
        DataNotFound: No place holds a complete layout.
    """
    for place in places:
        for layout in layouts:
            found = [_present(folder / place, file) for file in layout]
            paths = tuple(path for path in found if path is not None)
            if len(paths) == len(layout):
                return Located(layout, paths)
    raise DataNotFound(_not_found(name, folder, places, layouts))


def read_verified(path: Path, md5: str) -> bytes:
    """Return a file's decompressed content, if its md5 is the expected one.

    Raises:
        ChecksumMismatch: Other content, or a truncated or damaged gzip or xz stream.
    """
    stored = path.read_bytes()
    try:
        content = _DECOMPRESS.get(path.suffix, bytes)(stored)
    except DAMAGED as error:
        raise mismatch(path, md5, f"a damaged {path.suffix} file ({error})") from error
    require_md5(path, content, md5)
    return content


def require_md5(path: Path, content: bytes, md5: str) -> None:
    """Raise ChecksumMismatch unless the content has this md5."""
    came = md5_of(content)
    if came != md5:
        raise mismatch(path, md5, f"md5 {came}")


def md5_of(content: bytes) -> str:
    """Return the md5 in hexadecimal."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def mismatch(path: Path, md5: str, came: str) -> ChecksumMismatch:
    """Word the refusal of a file: what was expected, what came, what to do."""
    return ChecksumMismatch(
        f"{path} is not the published file: expected content of md5 {md5}, came {came}. It is damaged, or "
        "another data set's file of the same name; fetch it again, or name another folder."
    )


def _present(folder: Path, file: str) -> Path | None:
    candidates = (folder / f"{file}{suffix}" for suffix in ("", *_DECOMPRESS))
    return next((path for path in candidates if path.is_file()), None)


def _not_found(name: str, folder: Path, places: Sequence[str], layouts: Sequence[Sequence[str]]) -> str:
    wanted = "; or ".join(", ".join(layout) for layout in layouts)
    lines = [
        f"{name} is not in {folder}. Looked for: {wanted} (each plain, .gz or .xz), all in one of:",
        *(f"  {folder / place}{_lack(folder / place, layouts)}" for place in places),
        f"Put the published files there, name another folder (--data-dir, data_dir= or {VARIABLE}), or name "
        "none to download them.",
    ]
    return "\n".join(lines)


def _lack(folder: Path, layouts: Sequence[Sequence[str]]) -> str:
    """Tell what a place that holds some of the files lacks."""
    for layout in layouts:
        missing = [file for file in layout if _present(folder, file) is None]
        if len(missing) < len(layout):
            return f" (lacks {', '.join(missing)})"
    return "" if folder.is_dir() else " (no such folder)"
