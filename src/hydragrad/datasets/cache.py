"""The user's cache folder: downloaded files, and decoded arrays that are slow to decode."""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pooch
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]

DIGEST = "sha256"
"""Array of a cached file that seals the others."""


def cache_folder() -> Path:
    """Return the user's cache folder for hydragrad; it may not exist yet."""
    return Path(pooch.os_cache("hydragrad"))


def load_arrays(name: str) -> dict[str, NDArray[np.generic]] | None:
    """Return cached arrays, or None if there are none, or the file is damaged or another one. Nothing is unpickled."""
    try:
        # np.load leaves a damaged file open if it opens the file itself.
        with _path(name).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        digest = arrays.pop(DIGEST)
    except Exception:  # zip files fail in many ways: another compression, encryption, a header that is no header
        return None
    return arrays if np.array_equal(digest, _digest(name, arrays)) else None


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
            np.savez(file, **arrays, **{DIGEST: _digest(name, arrays)})  # type: ignore[arg-type]  # the stub takes ** for its own option
        Path(unfinished).replace(path)  # another process never sees half a file
        return True
    except OSError:
        return False
    finally:
        Path(unfinished).unlink(missing_ok=True)


def _digest(name: str, arrays: Arrays) -> NDArray[np.uint8]:
    """The sha256 of names, types, shapes and content, uint8, (32,)."""
    digest = hashlib.sha256(name.encode())
    for key, array in sorted(arrays.items()):
        digest.update(f"{key} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return np.frombuffer(digest.digest(), np.uint8)


def _path(name: str) -> Path:
    return cache_folder() / "decoded" / f"{name}.npz"
