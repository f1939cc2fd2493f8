"""The files of a finished store: each is held to what store.json says of it, by name.

    samples.npy, checksums.npy, final.safetensors   CRC-32 of the whole file
    rows.npy                                        CRC-32 of its header; each row's own is in checksums.npy

The checksums notice accidental damage, and files that were swapped, duplicated or taken from another store.
"""

import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from hydragrad.disk import reading
from hydragrad.errors import RunDamaged
from hydragrad.tracking.facts import DTYPES, StoreFacts
from hydragrad.tracking.rows.table import NUMPY_TYPES

ROWS, SAMPLES, CHECKSUMS, FINAL = "rows.npy", "samples.npy", "checksums.npy", "final.safetensors"
Checksums = Mapping[str, int]
"""CRC-32 by file name; empty in stores of versions that wrote none."""


def file_checksums(folder: Path) -> dict[str, int]:
    """What store.json says of the files next to it."""
    whole = {name: file_checksum(folder / name) for name in (SAMPLES, CHECKSUMS, FINAL)}
    return whole | {ROWS: zlib.crc32(_header(folder / ROWS))}


def file_checksum(path: Path) -> int:
    """CRC-32 of a whole file."""
    return zlib.crc32(path.read_bytes())


def read_rows(folder: Path, checksums: Checksums) -> NDArray[Any]:
    """The rows, memory-mapped; their own checksums are compared when they are used.

    Raises:
        RunDamaged: The file is missing, cut, or its header is another than was written.
    """
    path = folder / ROWS
    if checksums and zlib.crc32(_header(path)) != checksums.get(ROWS):
        raise _altered(path)
    try:
        with reading(path):
            rows: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except RunDamaged:
        raise
    except Exception as error:  # NumPy's header is Python text: a damaged one raises whatever parsing it may raise
        raise _unreadable(path, error) from error
    return rows


def read_array(folder: Path, name: str, checksums: Checksums) -> NDArray[Any]:
    """A small array, whole.

    Raises:
        RunDamaged: The file is missing or altered.
    """
    raw = _checked(folder / name, checksums)
    try:
        array: NDArray[Any] = np.load(io.BytesIO(raw), allow_pickle=False).copy()  # which may be written to
    except Exception as error:  # see read_rows
        raise _unreadable(folder / name, error) from error
    return array


def read_final(folder: Path, checksums: Checksums) -> dict[str, Tensor]:
    """The trained model's parameters and buffers.

    Raises:
        RunDamaged: The file is missing or altered.
    """
    raw = _checked(folder / FINAL, checksums)
    try:
        return load(raw)
    except (SafetensorError, ValueError, KeyError) as error:
        raise _unreadable(folder / FINAL, error) from error


def require_fitting(
    folder: Path,
    facts: StoreFacts,
    rows: NDArray[Any],
    samples: NDArray[Any],
    checksums: NDArray[Any],
    final: Mapping[str, Tensor],
) -> None:
    """Refuse files that don't fit each other, which those of a store without checksums may not.

    Raises:
        RunDamaged: Says which.
    """
    number = np.dtype(NUMPY_TYPES[DTYPES[facts.dtype]])
    described = {
        ROWS: rows.ndim == 2 and rows.dtype == number,
        SAMPLES: samples.ndim == 1 and samples.dtype == np.int64 and len(samples) == len(rows),
        CHECKSUMS: checksums.ndim == 1 and checksums.dtype == np.uint32 and len(checksums) == len(rows),
        # Buffers may have been registered or resized after the facts were taken.
        FINAL: all(_facts(final).get(name) == known for name, known in facts.model["parameters"].items()),
    }
    for name, fits in described.items():
        if not fits:
            raise RunDamaged(
                f"{folder / name} does not fit the {len(rows):,} rows that the store holds. Restore it from a copy, or "
                f"build the store again."
            )


def _facts(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: [list(tensor.shape), str(tensor.dtype)] for name, tensor in tensors.items()}


def _checked(path: Path, checksums: Checksums) -> bytes:
    raw = _bytes(path)
    if checksums and zlib.crc32(raw) != checksums.get(path.name):
        raise _altered(path)
    return raw


def _bytes(path: Path, most: int = -1) -> bytes:
    try:
        with reading(path), open(path, "rb") as file:
            return file.read(most)
    except OSError as error:
        raise RunDamaged(f"{path} can't be read ({error.strerror or error}). Build the store again.") from error


def _header(path: Path) -> bytes:
    """The first bytes of a .npy file, up to its data."""
    start = _bytes(path, 10)
    return _bytes(path, 10 + int.from_bytes(start[8:10], "little"))


def _altered(path: Path) -> RunDamaged:
    return RunDamaged(
        f"{path} is not the file that the store was written with (its checksum differs). Restore it from a copy, or "
        f"build the store again."
    )


def _unreadable(path: Path, error: Exception) -> RunDamaged:
    return RunDamaged(f"{path} can't be read ({error}). Restore it from a copy, or build the store again.")
