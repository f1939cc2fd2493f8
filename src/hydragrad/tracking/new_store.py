"""The beginning of a store: number format, projection, and a table that is known to fit."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from hydragrad.derivatives import Layout, Projector
from hydragrad.errors import NotEnoughMemory, RunExists
from hydragrad.tracking.facts import CHECKSUMS, DTYPES, FILE, GROWING, StoreFacts, is_growing, write_sealed
from hydragrad.tracking.rows.table import NUMPY_TYPES, Table
from hydragrad.tracking.store_files import SAMPLES, file_checksum

EXACT_COPIES = 4
"""Copies of all rows that an exact step holds: rows, tangents, and accumulators after it."""


def storage(dtype: torch.dtype | None, run: torch.dtype) -> torch.dtype:
    """The number format of the rows: `dtype`, or the run's if that is None.

    Raises:
        ValueError: A format that rows are not stored in.
    """
    number_format = run if dtype is None else dtype
    if number_format not in NUMPY_TYPES:
        raise ValueError(f"Rows are stored as {', '.join(map(str, NUMPY_TYPES))}, got {number_format}.")
    return number_format


def make_projector(
    layout: Layout, groups: Sequence[Sequence[str]], dims: int | None, seed: int, like: Tensor, dtype: torch.dtype
) -> Projector | None:
    """The projection of rows, computing in float64 where rows are stored in it."""
    if dims is None:
        return None
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    return Projector(layout, groups, dims, seed=seed, dtype=precision, device=like.device)


def require_no_store(folder: Path) -> None:
    """Refuse to write over a store.

    Raises:
        RunExists: The folder holds one, finished or not.
    """
    if (folder / FILE).exists() or is_growing(folder):
        raise RunExists(
            f"{folder} already holds a store. Choose another folder, delete it, or resume it with resume=True."
        )


def new_table(
    folder: Path | None,
    facts: StoreFacts,
    sample_ids: Tensor,
    *,
    width: int,
    accumulators: int,
    every_row: bool,
    room: int,
    state: Mapping[str, Tensor],
) -> Table:
    """Lay out an empty table.

    Args:
        folder: Where it lies; in memory if None.
        facts: What the store is to hold.
        sample_ids: The tracked samples.
        width: Columns.
        accumulators: Numbers of a row a column.
        every_row: Whether an optimizer step moves all rows.
        room: Rows that one step may change.
        state: The model's state, which is saved with every step.

    Raises:
        RunExists: The folder holds a store, finished or not.
        DiskFull: It would not fit.
        NotEnoughMemory: Rows in memory, or the copies of all rows that a step needs, would not fit.
    """
    if folder is not None:
        require_no_store(folder)
    require_memory(folder, facts, len(sample_ids), width, accumulators, every_row=every_row)
    table = Table.create(
        folder,
        rows=len(sample_ids),
        width=width,
        accumulators=accumulators,
        dtype=DTYPES[facts.dtype],
        room=min(room, len(sample_ids)),
        state_bytes=sum(value.numel() * value.element_size() for value in state.values()),
    )
    if folder is not None:
        np.save(folder / SAMPLES, sample_ids.numpy())
        write_sealed(folder / GROWING, asdict(facts) | {CHECKSUMS: {SAMPLES: file_checksum(folder / SAMPLES)}})
    return table


def require_memory(
    folder: Path | None, facts: StoreFacts, rows: int, width: int, accumulators: int, *, every_row: bool
) -> None:
    """Refuse rows that would not fit; arguments as in `new_table`.

    Raises:
        NotEnoughMemory: Rows in memory, or the copies of all rows that a step needs; says how many samples fit.
    """
    itemsize = np.dtype(NUMPY_TYPES[DTYPES[facts.dtype]]).itemsize
    exact = facts.curvature == "hessian"
    # Where a step moves every row, it computes with all of them, wherever they lie.
    copies = 2 * accumulators + 2 if every_row else EXACT_COPIES * exact
    row_bytes = width * (copies * max(4, itemsize) + accumulators * itemsize * (folder is None))
    available = psutil.virtual_memory().available
    if rows * row_bytes > available:
        remedy = "Give fewer samples" if exact else "Give store=, a folder, or projection=, or fewer samples"
        if every_row:
            remedy = "Give fewer samples; or record the run and use hg.attribute(run, query), which needs no rows"
        raise NotEnoughMemory(
            f"{rows:,} rows of {width:,} numbers need {rows * row_bytes / 2**30:,.1f} GiB of memory and "
            f"{available / 2**30:,.1f} GiB are free: {available // row_bytes:,} samples fit. {remedy}."
        )
