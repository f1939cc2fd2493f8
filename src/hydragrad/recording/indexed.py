"""`indexed`: the sample indices of every batch, from any stock DataLoader, with batches that can be drawn again."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from hydragrad.errors import DataError
from hydragrad.randomness import (
    BATCH,
    every_generator_state,
    preserved,
    reseed_everything,
    set_generator_states,
    stream_seed,
)
from hydragrad.recording.observer import Epoch, Indices
from hydragrad.replay.data import collate_items

if TYPE_CHECKING:
    from hydragrad.recording.recorder import Recorder


def indexed(loader: DataLoader[Any], *, recorder: "Recorder | None" = None) -> Iterator[tuple[Indices, Any]]:
    """Yield `(indices, batch)` for one epoch of a DataLoader.

    The order is the loader's own. Random augmentation in the data set's `__getitem__` (torch's, NumPy's and
    Python's generators) draws from a seed a batch, whatever the number of workers, so that a recorded batch
    can be drawn again.

    Args:
        loader: Any stock DataLoader over a map-style data set.
        recorder: Given a recorder that resumes inside an epoch, the batches already recorded are passed over
            without being loaded, and the loader's order goes on as if it had never stopped.

    Raises:
        DataError: An iterable-style data set, or a loader without batches.
    """
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        raise DataError(
            "hg.indexed needs a DataLoader with batches over a map-style data set: samples of a stream have no "
            "index to be attributed to. Give the loader a batch_size and a data set with [index]."
        )
    skip, after_skip = recorder.take_sampler_position(loader) if recorder is not None else (0, None)
    start = _loader_states(loader)
    epoch = Epoch(_own_generators(loader))
    base_seed = _draw_without_trace(loader)
    batches = iter(_rebuilt(loader, base_seed, skip))
    for position, (indices, batch_seed, batch) in enumerate(batches, start=skip):
        if after_skip is not None:  # only now has the sampler drawn its order
            set_generator_states(after_skip)
            after_skip = None
        named = Indices(indices)
        named.batch_seed = batch_seed
        named.sampler = start | {"position": position}
        named.epoch = epoch
        yield named, batch
    epoch.over = True


def put_back(states: dict[str, Any], loader: DataLoader[Any]) -> None:
    """Set the generators that the order of an epoch is drawn from."""
    shared = {key[7:]: state for key, state in states.items() if key.startswith("global_")}
    if shared:
        set_generator_states(shared)
    for name, generator in _own_generators(loader).items():
        if name in states:
            generator.set_state(states[name])


class _SeededBatches(Dataset[Any]):
    """Fetches whole batches, each under its own seed."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._dataset, self._collate = loader.dataset, loader.collate_fn

    def __getitem__(self, draw: tuple[int, list[int]]) -> tuple[list[int], int, Any]:
        batch_seed, indices = draw
        with preserved():
            reseed_everything(batch_seed)
            return indices, batch_seed, collate_items(self._dataset, indices, self._collate)


class _SeededDraws:
    """The loader's own batches of indices, with a seed each."""

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
        sampler=_SeededDraws(loader, base_seed, skip),
        num_workers=loader.num_workers,
        collate_fn=_as_it_is,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
    )


def _as_it_is(item: Any) -> Any:
    return item


def _own_generators(loader: DataLoader[Any]) -> dict[str, torch.Generator]:
    batches = loader.batch_sampler
    holders = {
        "loader": loader,
        "sampler": loader.sampler,
        "batches": batches,
        "inner": getattr(batches, "sampler", None),
    }
    own: dict[str, torch.Generator] = {}
    for name, holder in holders.items():
        generator = getattr(holder, "generator", None)
        if generator is not None and all(generator is not known for known in own.values()):
            own[name] = generator
    return own


def _loader_states(loader: DataLoader[Any]) -> dict[str, Any]:
    states: dict[str, Any] = {f"global_{name}": state for name, state in every_generator_state().items()}
    return states | {name: generator.get_state() for name, generator in _own_generators(loader).items()}


def _draw_without_trace(loader: DataLoader[Any]) -> int:
    # From the generator that the loader draws from, so that every epoch has a seed of its own.
    generator = torch.Generator()
    generator.set_state(torch.get_rng_state() if loader.generator is None else loader.generator.get_state())
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator))
