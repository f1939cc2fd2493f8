"""The setup that is checked: what the user would train with, and private copies of it that may be trained."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from hydragrad.derivatives import PerSampleLoss, copy_of
from hydragrad.derivatives.copying import copying_kept_tensors
from hydragrad.randomness import preserved
from hydragrad.recording.sampler_position import loader_generators
from hydragrad.replay.data import Collate

STEPS = 2
"""Steps that are made."""


class Copies(NamedTuple):
    """Model, optimizers and scheduler of the user's, copied with their states."""

    model: nn.Module
    optimizers: list[Optimizer]
    scheduler: Any


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the user would train with.

    Attributes:
        model, optimizer, loss, train_set, scheduler: As `check` takes them; `optimizer` is one or a list.
        data: The samples of the two steps alone.
        samples: Which ones they are of `train_set`.
        groups: The batches of every step, as numbers of `data`.
        collate: Makes a batch of a list of items; torch's default if None.
        clip_norm: Gradients are clipped to this norm; None leaves them alone.
        autocast: Forward passes run under autocast to this type; None leaves them alone.
    """

    model: nn.Module
    optimizer: Any
    loss: PerSampleLoss
    train_set: Dataset[Any]
    data: Dataset[Any]
    samples: Sequence[int]
    groups: Sequence[Sequence[Sequence[int]]]
    scheduler: Any = None
    collate: Collate | None = None
    clip_norm: float | None = None
    autocast: torch.dtype | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def batch(self) -> list[int]:
        """The first batch, as numbers of `data`."""
        return list(self.groups[0][0])

    def on_everything(self) -> "Setup":
        """The same steps on the whole training set, so that samples have the user's own numbers."""
        groups = [[[self.samples[number] for number in batch] for batch in group] for group in self.groups]
        return replace(self, data=self.train_set, samples=range(len(self.train_set)), groups=groups)  # type: ignore[arg-type]

    def copies(self) -> Copies:
        """Copies that may be trained, the model in train mode.

        Raises:
            Unsupported: The model can't be copied.
        """
        model = copy_of(self.model).train()
        memo: dict[int, Any] = {}
        for own, copied in zip(_tensors(self.model), _tensors(model), strict=True):
            memo[id(own)] = copied
        memo[id(self.model)] = model
        with copying_kept_tensors():
            optimizers = [_optimizer_copy(optimizer, memo) for optimizer in listed(self.optimizer)]
            scheduler = copy.deepcopy(self.scheduler, memo)
        return Copies(model, optimizers, scheduler)


def listed(optimizer: Any) -> list[Any]:
    """One optimizer or several, as a list."""
    return list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def _optimizer_copy(optimizer: Optimizer, memo: dict[int, Any]) -> Optimizer:
    """Copy an optimizer with its state; torch's own copy leaves out attributes that a class adds."""
    copied = memo[id(optimizer)] = copy.deepcopy(optimizer, memo)
    for name, value in vars(optimizer).items():
        if name not in vars(copied) and name != "step":  # a scheduler wraps the method on the instance
            setattr(copied, name, copy.deepcopy(value, memo))
    return copied


def some_of(train_set: Dataset[Any], samples: Sequence[int]) -> Dataset[Any]:
    """Some samples as a data set of their own, of the same kind where that changes how batches are made."""
    if type(train_set) is TensorDataset:
        return TensorDataset(*(tensor[list(samples)] for tensor in train_set.tensors))
    return Subset(train_set, list(samples))


def first_batches(train_set: Dataset[Any], loader: DataLoader[Any] | None, size: int, count: int) -> list[list[int]]:
    """The samples of the first batches: the loader's own, or in the order of the data.

    The loader's generators are left as they were. Where there are fewer batches, they come again.
    """
    length = len(train_set)  # type: ignore[arg-type]
    if loader is None:
        return [[(number * size + place) % length for place in range(min(size, length))] for number in range(count)]
    batches: list[list[int]] = []
    states = {name: generator.get_state() for name, generator in loader_generators(loader).items()}
    try:
        with preserved():
            for indices, _ in zip(loader.batch_sampler or (), range(count), strict=False):
                batches.append([int(index) for index in indices])
    finally:
        for name, generator in loader_generators(loader).items():
            generator.set_state(states[name])
    return [batches[number % len(batches)] for number in range(count)] if batches else []


def two_steps(
    train_set: Dataset[Any], loader: DataLoader[Any] | None, size: int, accumulate: int
) -> tuple[list[int], list[list[list[int]]]]:
    """The samples of two steps, and their batches as places among them."""
    batches = first_batches(train_set, loader, size, STEPS * accumulate)
    samples = list(dict.fromkeys(index for batch in batches for index in batch))
    number = {index: place for place, index in enumerate(samples)}
    numbered = [[number[index] for index in batch] for batch in batches]
    groups = [numbered[start : start + accumulate] for start in range(0, len(numbered), accumulate)]
    return samples, groups
