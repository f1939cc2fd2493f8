"""Where a loader stands in its epoch: noted with every batch, and restored when a run is resumed inside an epoch."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hydragrad.randomness import every_generator_state, set_generator_states
from hydragrad.runs.checkpoints import Checkpoint

GLOBAL = "global_"
"""Prefix of the global generators in a loader's states."""


@dataclass
class Epoch:
    """One pass over a loader.

    Attributes:
        generators: The loader's own generators.
        finished: Set once the last batch was used.
    """

    generators: dict[str, torch.Generator]
    finished: bool = False


class Indices(list[int]):
    """The sample indices of a batch, with what is needed to fetch the same batch again.

    Attributes:
        batch_seed: Seed of random augmentation in the data set's `__getitem__`; None where the loader set none.
        digest: Of the batch's tensors, as they were loaded.
        leaves_one: Whether the last batch of the epoch has one sample.
        sampler: Where the loader stood before this batch.
        epoch: The pass over the loader that the batch belongs to.
    """

    batch_seed: int | None = None
    digest: int | None = None
    leaves_one: bool = False
    sampler: dict[str, Any] | None = None
    epoch: Epoch | None = None


class SamplerPosition(NamedTuple):
    """Where a loader starts an epoch.

    Attributes:
        skip: Batches to skip.
        generators: Global generator states to set once those are skipped; None to leave the generators alone.
    """

    skip: int = 0
    generators: dict[str, Tensor] | None = None


class HasSamplerPosition(Protocol):
    """A recorder, as `indexed` sees it."""

    def take_sampler_position(self, loader: DataLoader[Any]) -> tuple[int, dict[str, Tensor] | None]:
        """After a resume, once: set the loader to the epoch's start and return a `SamplerPosition`."""
        ...


def position_before(indices: object) -> dict[str, Any]:
    """Where the loader stood before a batch; empty for indices that `indexed` did not yield."""
    return (indices.sampler or {}) if isinstance(indices, Indices) else {}


def position_after(indices: object) -> dict[str, Any]:
    """Where the loader stands after a batch; empty for indices that `indexed` did not yield."""
    if not isinstance(indices, Indices) or indices.epoch is None or indices.sampler is None:
        return {}
    if indices.epoch.finished:
        return {name: generator.get_state() for name, generator in indices.epoch.generators.items()}
    return indices.sampler | {"position": indices.sampler["position"] + 1}


def resumed_position(checkpoint: Checkpoint, loader: DataLoader[Any]) -> SamplerPosition:
    """Set the generators that order an epoch to its start, and return where the checkpoint was in it."""
    states = checkpoint.sampler
    shared = {name.removeprefix(GLOBAL): state for name, state in states.items() if name.startswith(GLOBAL)}
    if shared:
        set_generator_states(shared)
    for name, generator in loader_generators(loader).items():
        if name in states:
            generator.set_state(states[name])
    position = states.get("position")
    return SamplerPosition() if position is None else SamplerPosition(position, checkpoint.generators)


def loader_generators(loader: DataLoader[Any]) -> dict[str, torch.Generator]:
    """The generators of a loader and its samplers by role; one that they share is listed once."""
    batches = loader.batch_sampler
    holders = {
        "loader": loader,
        "sampler": loader.sampler,
        "batches": batches,
        "inner": getattr(batches, "sampler", None),
    }
    generators: dict[str, torch.Generator] = {}
    for name, holder in holders.items():
        generator = getattr(holder, "generator", None)
        if generator is not None and all(generator is not known for known in generators.values()):
            generators[name] = generator
    return generators


def loader_states(loader: DataLoader[Any]) -> dict[str, Any]:
    """States of all generators that may order an epoch: the global ones, and the loader's own."""
    states: dict[str, Any] = {f"{GLOBAL}{name}": state for name, state in every_generator_state().items()}
    return states | {name: generator.get_state() for name, generator in loader_generators(loader).items()}
