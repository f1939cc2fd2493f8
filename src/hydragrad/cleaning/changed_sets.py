"""Training sets without some samples, or with other labels for some."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from hydragrad.errors import DataError


def labels_of(dataset: Dataset[Any]) -> Tensor:
    """The integer labels of a data set, int64 (samples,).

    They are the last integer tensor of a TensorDataset, the attribute `targets` or `labels`, or the second entry of
    every item.

    Raises:
        DataError: There are none.
    """
    if isinstance(dataset, Subset):
        return labels_of(dataset.dataset)[torch.as_tensor(list(dataset.indices))]
    if isinstance(dataset, TensorDataset):
        integers = [t for t in dataset.tensors if not t.is_floating_point() and t.dim() == 1]
        if integers:
            return integers[-1].long()
    for name in ("targets", "labels"):
        if hasattr(dataset, name):
            return torch.as_tensor(getattr(dataset, name)).long().flatten()
    try:
        length = len(dataset)  # type: ignore[arg-type]
        return torch.tensor([int(dataset[i][1]) for i in range(length)])
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise DataError(
            f"Expected a data set with integer labels: a TensorDataset with them, an attribute `targets` or `labels`, "
            f"or items (input, label). No integer labels were found in this {type(dataset).__name__}."
        ) from error


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


def relabelled(train_set: Dataset[Any], samples: Sequence[int], labels: Sequence[int]) -> Dataset[Any]:
    """The training set with other labels for some samples.

    Raises:
        DataError: The training set has no integer labels.
    """
    new = labels_of(train_set).clone()
    new[list(samples)] = torch.as_tensor(list(labels), dtype=new.dtype)
    if type(train_set) is TensorDataset:
        tensors = list(train_set.tensors)
        position = max(i for i, t in enumerate(tensors) if not t.is_floating_point() and t.dim() == 1)
        tensors[position] = new.to(tensors[position].dtype)
        return TensorDataset(*tensors)
    return _Relabelled(train_set, new)


class _Relabelled(Dataset[Any]):
    """Items (input, label, ...) with the labels replaced."""

    def __init__(self, dataset: Dataset[Any], labels: Tensor) -> None:
        self.dataset, self.labels = dataset, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        item = list(self.dataset[index])
        item[1] = type(item[1])(self.labels[index].item())
        return tuple(item)
