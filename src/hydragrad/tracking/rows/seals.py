"""Seals of growing rows: one number a row, kept next to it, that notices accidental damage of a file.

A sum of a row's bytes, taken as 64-bit words, costs a fifth of a CRC and rows are sealed at every step. Every flipped,
zeroed, cut or overwritten block changes it; only words that change places inside of one row do not. The seal also holds
which row it is and how many steps the row takes into account.
"""

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Seals = NDArray[np.uint64]

# Odd, so that a product is 0 modulo 2^64 for 0 only.
PLACE, STEPS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
LOW = (1 << 32) - 1


def row_seals(rows: NDArray[Any], places: NDArray[np.int64], steps: NDArray[np.int64] | int) -> Seals:
    """Seals of rows, (rows,).

    Args:
        rows: (rows, columns), each row contiguous.
        places: Which rows they are.
        steps: How many steps each takes into account.
    """
    raw = rows.view(np.uint8)
    whole = raw.shape[1] // 8 * 8
    sums: Seals = np.add.reduce(raw[:, :whole].view(np.uint64), axis=1, dtype=np.uint64)
    for byte in range(whole, raw.shape[1]):
        sums += raw[:, byte].astype(np.uint64) << np.uint64(8 * (byte - whole))
    sums += places.astype(np.uint64) * PLACE
    sums += (np.atleast_1d(steps).astype(np.uint64) + np.uint64(1)) * STEPS
    return sums


def packed(number: int) -> int:
    """A number below 2^32 and its CRC-32 in one word of 64 bits, which a kill can't tear."""
    return number | zlib.crc32(number.to_bytes(4, "little")) << 32


def unpacked(word: int) -> int:
    """The number of a packed word.

    Raises:
        ValueError: The word is altered.
    """
    number = word & LOW
    if packed(number) != word:
        raise ValueError("the count of its steps does not have the checksum it was written with")
    return number
