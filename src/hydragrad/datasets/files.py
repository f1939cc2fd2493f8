"""Find published files in a folder, and read them only if their checksums are the published ones."""

import gzip
import hashlib
import lzma
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hydragrad.errors import ChecksumMismatch, DataNotFound

FOLDER_VARIABLE = "HYDRAGRAD_DATA"

_DECOMPRESS = {".gz": gzip.decompress, ".xz": lzma.decompress}
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


class Located(NamedTuple):
    """The files of a data set, in the order of their layout."""

    layout: Sequence[str]
    paths: tuple[Path, ...]


def data_folder(data_dir: str | os.PathLike[str] | None) -> Path | None:
    """Return the data folder: the argument, else the variable HYDRAGRAD_DATA, else None."""
    folder = data_dir if data_dir is not None else os.environ.get(FOLDER_VARIABLE)
    return Path(folder).expanduser() if folder else None


def locate(name: str, folder: Path, subfolders: Sequence[str], layouts: Sequence[Sequence[str]]) -> Located:
    """Find a data set below a folder, as plain files or each compressed with gzip or xz.

    Args:
        name: Name of the data set, for the message.
        folder: The data folder.
        subfolders: Where to look in it, the most specific one first.
        layouts: Lists of file names, each of which is the whole data set, the preferred one first.

    Raises:
        DataNotFound: No sub-folder holds a complete layout.
    """
    for subfolder in subfolders:
        for layout in layouts:
            candidates = [_present(folder / subfolder, file) for file in layout]
            paths = tuple(path for path in candidates if path is not None)
            if len(paths) == len(layout):
                return Located(layout, paths)
    raise DataNotFound(_not_found(name, folder, subfolders, layouts))


def read_verified(path: Path, md5: str) -> bytes:
    """Read a file's decompressed content and verify its md5.

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
    actual = md5_of(content)
    if actual != md5:
        raise mismatch(path, md5, f"md5 {actual}")


def md5_of(content: bytes) -> str:
    """Return the md5 in hexadecimal."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def mismatch(path: Path, md5: str, actual: str) -> ChecksumMismatch:
    """Return the error for a file that is not the published one."""
    return ChecksumMismatch(
        f"{path} is not the published file: expected content of md5 {md5}, got {actual}. It is damaged, or "
        "another data set's file of the same name. Fetch it again, or name another folder."
    )


def _present(folder: Path, file: str) -> Path | None:
    candidates = (folder / f"{file}{suffix}" for suffix in ("", *_DECOMPRESS))
    return next((path for path in candidates if path.is_file()), None)


def _not_found(name: str, folder: Path, subfolders: Sequence[str], layouts: Sequence[Sequence[str]]) -> str:
    expected = "; or ".join(", ".join(layout) for layout in layouts)
    lines = [
        f"{name} is not in {folder}. Looked for: {expected} (each plain, .gz or .xz), all in one of:",
        *(f"  {folder / subfolder}{_missing(folder / subfolder, layouts)}" for subfolder in subfolders),
        f"Put the published files there, name another folder (--data-dir, data_dir= or {FOLDER_VARIABLE}), or name "
        "none to download them.",
    ]
    return "\n".join(lines)


def _missing(folder: Path, layouts: Sequence[Sequence[str]]) -> str:
    """Return which files are missing in a folder that holds some of them, in parentheses."""
    for layout in layouts:
        missing = [file for file in layout if _present(folder, file) is None]
        if len(missing) < len(layout):
            return f" (missing: {', '.join(missing)})"
    return "" if folder.is_dir() else " (no such folder)"
