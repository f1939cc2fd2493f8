"""A store in shards: each holds the rows of some samples, is filled by a replay of its own, anywhere, and then joined.

The rows of a shard do not depend on where it is filled, so a store is the same to the bit for the same number of
shards.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hydragrad.disk import make_folder
from hydragrad.errors import RunExists, Unfinished
from hydragrad.execution import Execution, run_jobs
from hydragrad.execution.claims import Claims, claimed, exclusive
from hydragrad.execution.folders import Listing, shared_folder
from hydragrad.progress import bar
from hydragrad.replay import Recording
from hydragrad.replay.on_run import OnRun
from hydragrad.runs.kept_jobs import unfinished
from hydragrad.tracking.facts import FILE
from hydragrad.tracking.new_store import require_no_store
from hydragrad.tracking.rows.table import require_disk
from hydragrad.tracking.store import Store
from hydragrad.tracking.store_files import ROWS

FOLDER = "shards"
BLOCK = 1024
"""Rows that are copied at a time."""

Fill = Callable[[Recording, Tensor, Path], Store]
"""Fills the store of some samples in a folder; resumes one that is there."""


def sharded(run: Recording, sample_ids: Tensor, folder: Path, shards: int, fill: Fill, execution: Execution) -> Store:
    """Fill a store shard by shard, and join them.

    Args:
        run: The recorded run.
        sample_ids: The samples of the whole store.
        folder: Where it lies; the shards lie in a folder of it until they are joined.
        shards: How many.
        fill: Fills one.
        execution: Where they are filled.

    Raises:
        RunExists: There is a store already; as a slice, one of other samples.
        Unfinished: A slice, and shards of other slices are missing.
        DiskFull: The joined rows would not fit next to the shards.
    """
    if execution.part is not None and (folder / FILE).exists():
        return _already(run, folder, sample_ids)
    require_no_store(folder)
    work = _Filling(run, sample_ids.tensor_split(shards), folder / FOLDER, fill)
    places = list[int]()
    with bar("hypergradients", shards, unit="shards") as progress, Claims(folder / FOLDER) as claims:
        names = [path.name for path in work.folders]

        def waiting() -> Iterator[int]:
            for place in claimed(range(shards), names, execution.part, claims):
                places.append(place)
                yield place

        for number, _ in run_jobs(work, waiting(), execution):
            claims.drop(names[places[number]])
            progress.advance()
    with exclusive(folder):
        if (folder / FILE).exists():  # joined by another slice
            return _already(run, folder, sample_ids)
        absent = sum(not (path / FILE).exists() for path in work.folders)
        if absent:
            assert execution.part is not None
            raise Unfinished(unfinished(execution.part, absent, shards, "shards"))
        return _joined(run, folder, work.folders)


class _Filling(OnRun):
    """Fills one shard.

    Attributes:
        folders: Of the shards.
    """

    def __init__(self, run: Recording, ids: Sequence[Tensor], folder: Path, fill: Fill) -> None:
        super().__init__(run)
        self._folder = folder
        make_folder(folder)
        self.folders = [folder / f"{number:05d}" for number in range(len(ids))]
        self._ids, self._fill = ids, fill

    @property
    def shared(self) -> Listing:
        """The folder of the shards, which workers must see."""
        return shared_folder(self._folder)

    def __call__(self, number: int) -> None:
        with exclusive(self._folder, f"filling {number}"):  # a store has one writer
            if (self.folders[number] / FILE).exists():
                return
            self._fill(self.run, self._ids[number], self.folders[number])


def _joined(run: Recording, folder: Path, shards: Sequence[Path]) -> Store:
    """One store of the rows of all shards, in their order; the shards are deleted."""
    stores = [Store.open(path, run.model, run.loss, collate=run.collate_fn) for path in shards]
    first, count = stores[0], sum(len(store.rows) for store in stores)
    require_disk(folder, count * first.rows[0].nbytes)
    unfinished_rows = folder / f"{ROWS}.tmp"
    shape = count, first.rows.shape[1]
    rows = np.lib.format.open_memmap(unfinished_rows, mode="w+", dtype=first.rows.dtype, shape=shape)
    at = 0
    for store in stores:
        for start in range(0, len(store.rows), BLOCK):
            block = store.checked(start, min(start + BLOCK, len(store.rows)))
            rows[at : at + len(block)] = block
            at += len(block)
    rows.flush()
    os.replace(unfinished_rows, folder / ROWS)
    ids = torch.cat([store.sample_ids for store in stores])
    joined = Store(run.model, run.loss, first.facts, rows, ids, first.final, path=folder, collate=run.collate_fn)
    joined.finish(folder)
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    return joined


def _already(run: Recording, folder: Path, sample_ids: Tensor) -> Store:
    store = Store.open(folder, run.model, run.loss, collate=run.collate_fn)
    if not torch.equal(store.sample_ids, sample_ids):
        raise RunExists(f"{folder} already holds a store of other samples. Choose another folder, or delete it.")
    return store
