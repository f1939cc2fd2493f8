"""Training sets without some samples, or with other labels for some."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Subset, TensorDataset, default_collate

from hydragrad.cleaning.items import with_leaf
from hydragrad.derivatives import Label, tensor_leaves
from hydragrad.errors import DataError


def without(train_set: Dataset[Any], removed: Sequence[int]) -> Dataset[Any]:
    """The training set without some samples.

    Raises:
        DataError: Nothing would be left.
    """
    length = len(train_set)  # type: ignore[arg-type]
    remaining = torch.ones(length, dtype=torch.bool)
    remaining[list(removed)] = False
    if not remaining.any():
        raise DataError(f"Removing {len(removed):,} of {length:,} samples leaves nothing to train on.")
    if type(train_set) is TensorDataset:
        return TensorDataset(*(tensor[remaining] for tensor in train_set.tensors))
    return Subset(train_set, remaining.nonzero().flatten().tolist())


def relabelled(train_set: Dataset[Any], samples: Sequence[int], labels: Sequence[int], label: Label) -> Dataset[Any]:
    """The training set with other labels for some samples; each keeps the type and dtype that it has.

    Args:
        train_set: Batched by torch's default collate.
        samples: Whose label is another one.
        labels: Their labels.
        label: Which tensor of a batch is the label; `replay.label_of(run)` finds it.

    Raises:
        DataError: The items of the data set do not hold what the batches hold there.
        LossError: A label that the model has no output for.
    """
    new = dict(zip(samples, labels, strict=True))
    if type(train_set) is TensorDataset:
        marked = torch.full((len(train_set),), -1)
        marked[list(new)] = torch.tensor(list(new.values()), dtype=marked.dtype)
        return TensorDataset(*(label.replaced(list(train_set.tensors), marked) if new else train_set.tensors))
    return _Relabelled(train_set, new, label)


class _Relabelled(Dataset[Any]):
    """Items with the labels of some replaced."""

    def __init__(self, dataset: Dataset[Any], labels: Mapping[int, int], label: Label) -> None:
        self.dataset, self.labels, self.label = dataset, labels, label

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        item = self.dataset[index]
        place = int(index) % len(self)
        if place not in self.labels:
            return item
        batch = self.label.replaced(default_collate([item]), torch.tensor([self.labels[place]]))
        changed = with_leaf(item, self.label.leaf, tensor_leaves(batch)[self.label.leaf][0])
        if not torch.equal(self.label.of(default_collate([changed])), torch.tensor([self.labels[place]])):
            raise DataError(
                f"Sample {place} should get label {self.labels[place]}, but its item holds no number or tensor where "
                f"its batch holds the label, {self.label.name}. Have items hold their label themselves."
            )
        return changed
