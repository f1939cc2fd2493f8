"""`indexed`: the sample indices of every batch, from any stock DataLoader, with batches that can be fetched again."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from hydragrad.errors import DataError
from hydragrad.randomness import BATCH, preserved, reseed_everything, set_generator_states, stream_seed
from hydragrad.recording.batch_of_one import leaves_one
from hydragrad.recording.prepared import is_prepared, prepared_batches
from hydragrad.recording.sampler_position import (
    Epoch,
    HasSamplerPosition,
    Indices,
    SamplerPosition,
    loader_generators,
    loader_states,
)
from hydragrad.replay.data import collate_items
from hydragrad.replay.fingerprints import batch_digest


def indexed(loader: DataLoader[Any], *, recorder: HasSamplerPosition | None = None) -> Iterator[tuple[Indices, Any]]:
    """Yield `(indices, batch)` for one epoch of a DataLoader.

    The order is the loader's own. Random augmentation in the data set's `__getitem__` (torch's, NumPy's and
    Python's generators) draws from one seed per batch, whatever the number of workers, so that a recorded batch
    can be fetched again.

    Args:
        loader: Any stock DataLoader over a map-style data set, or one that accelerate prepared: its batches are then
            on the device, and `accelerator.accumulate` knows the last one.
        recorder: The `Recorder` of the loop. Where it resumed inside an epoch, the recorded batches are skipped
            without being loaded, and the loader's order continues as if the run had never stopped.

    Raises:
        DataError: An iterable-style data set, or a loader without batches.
        Unsupported: A prepared loader whose batches another process fetches.
    """
    if is_prepared(loader):
        yield from prepared_batches(loader, lambda base: indexed(base, recorder=recorder))
        return
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        raise DataError(
            "hg.indexed needs a DataLoader with batches over a map-style data set: samples of a stream have no "
            "index to be attributed to. Set the loader's batch_size, and use a data set with [index]."
        )
    skip, generators = SamplerPosition() if recorder is None else recorder.take_sampler_position(loader)
    start = loader_states(loader)
    epoch = Epoch(loader_generators(loader))
    base_seed, one_left = _base_seed(loader), leaves_one(loader)
    batches = iter(_rebuilt(loader, base_seed, skip))
    for position, (batch_indices, batch_seed, batch) in enumerate(batches, start=skip):
        if generators is not None:  # not earlier: the sampler has now drawn its order
            set_generator_states(generators)
            generators = None
        indices = Indices(batch_indices)
        indices.batch_seed = batch_seed
        indices.digest = batch_digest(batch)
        indices.leaves_one = one_left
        indices.sampler = start | {"position": position}
        indices.epoch = epoch
        yield indices, batch
    epoch.finished = True


class _SeededBatches(Dataset[Any]):
    """Fetches whole batches, each under its own seed."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._dataset, self._collate = loader.dataset, loader.collate_fn

    def __getitem__(self, seeded_indices: tuple[int, list[int]]) -> tuple[list[int], int, Any]:
        batch_seed, indices = seeded_indices
        with preserved():
            reseed_everything(batch_seed)
            return indices, batch_seed, collate_items(self._dataset, indices, self._collate)


class _SeededIndices:
    """The loader's own batches of indices, with one seed each."""

    def __init__(self, loader: DataLoader[Any], base_seed: int, skip: int) -> None:
        self._batch_sampler, self._base_seed, self._skip = loader.batch_sampler, base_seed, skip

    def __len__(self) -> int:
        return len(self._batch_sampler) - self._skip  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        for position, indices in enumerate(self._batch_sampler):  # type: ignore[arg-type]
            if position >= self._skip:
                yield stream_seed(self._base_seed, position, BATCH), [int(i) for i in indices]


def _rebuilt(loader: DataLoader[Any], base_seed: int, skip: int) -> DataLoader[Any]:
    return DataLoader(
        _SeededBatches(loader),
        batch_size=None,
        sampler=_SeededIndices(loader, base_seed, skip),
        num_workers=loader.num_workers,
        collate_fn=_unchanged,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
    )


def _unchanged(item: Any) -> Any:
    return item


def _base_seed(loader: DataLoader[Any]) -> int:
    """Peek at the generator that the loader draws from, so that every epoch has its own seed; leave it unchanged."""
    generator = torch.Generator()
    generator.set_state(torch.get_rng_state() if loader.generator is None else loader.generator.get_state())
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator))
