"""The user's cache folder: downloaded files, and decoded arrays that are slow to decode."""

import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pooch
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]


def cache_folder() -> Path:
    """Return the user's cache folder for hydragrad; it may not exist yet."""
    return Path(pooch.os_cache("hydragrad"))


def load_arrays(name: str) -> dict[str, NDArray[np.generic]] | None:
    """Return cached arrays, or None if there are none or the file is damaged. Nothing is unpickled."""
    try:
        # np.load leaves a damaged file open if it opens the file itself.
        with _path(name).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def save_arrays(name: str, arrays: Arrays) -> bool:
    """Write arrays to the cache under a name; if that fails, leave nothing and return False."""
    path = _path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".unfinished")
    except OSError:
        return False
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes ** for its own option
        Path(unfinished).replace(path)  # another process never sees half a file
        return True
    except OSError:
        return False
    finally:
        Path(unfinished).unlink(missing_ok=True)


def _path(name: str) -> Path:
    return cache_folder() / "decoded" / f"{name}.npz"
