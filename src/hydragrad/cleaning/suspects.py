"""Suspects: training samples ranked by how much they harm, with the label that would help most."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from hydragrad.cleaning.label_noise import load_labels
from hydragrad.errors import DataError
from hydragrad.recording import Recording
from hydragrad.scores import Scores


def suspects(run: Recording, scores: Scores, *, query: str | int | None = None) -> pd.DataFrame:
    """Rank training samples from the most to the least harmful.

    Args:
        run: The recorded run.
        scores: Contributions to a loss on held-out data whose labels are right.
        query: Which query, if the scores answer several.

    Returns:
        One row a scored sample: `sample`, `given_label`, `suggested_label` (the label under which it would help
        most; only of scores asked for with labels=True), `contribution` (negative harms; unit of the query), and,
        where noise was planted, `true_label` and `flipped`.

    Raises:
        DataError: The training set has no integer labels.
    """
    ids = scores.sample_ids
    frame = pd.DataFrame({"sample": ids.numpy()})
    frame["given_label"] = labels_of(run.train_set)[ids].numpy()
    if scores.label_contributions is not None:
        frame["suggested_label"] = scores.suggested_labels(query).numpy()
    frame["contribution"] = scores.row(query).numpy()
    kept = load_labels(run.path)
    if kept is not None:
        frame["true_label"] = kept.true[ids].numpy()
        frame["flipped"] = kept.flipped[ids].numpy()
    return frame.sort_values("contribution", kind="stable", ignore_index=True)


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
            f"No integer labels were found in this {type(dataset).__name__}: expected a TensorDataset with them, an "
            f"attribute `targets` or `labels`, or items (input, label)."
        ) from error


def estimated_share(suspected: pd.DataFrame) -> float:
    """Estimate the share of wrong labels: samples that harm, and for which another label is suggested.

    Without suggested labels it is the share of samples that harm.
    """
    wrong = suspected["contribution"] < 0
    if "suggested_label" in suspected:
        wrong &= suspected["suggested_label"] != suspected["given_label"]
    return float(wrong.mean())


def without(train_set: Dataset[Any], removed: Sequence[int]) -> Dataset[Any]:
    """The training set without some samples.

    Raises:
        DataError: Nothing would be left.
    """
    length = len(train_set)  # type: ignore[arg-type]
    kept = torch.ones(length, dtype=torch.bool)
    kept[list(removed)] = False
    if not kept.any():
        raise DataError(f"Removing {len(removed):,} of {length:,} samples leaves nothing to train on.")
    if type(train_set) is TensorDataset:
        return TensorDataset(*(tensor[kept] for tensor in train_set.tensors))
    return Subset(train_set, kept.nonzero().flatten().tolist())


def relabelled(train_set: Dataset[Any], samples: Sequence[int], labels: Sequence[int]) -> Dataset[Any]:
    """The training set with other labels for some samples.

    Raises:
        DataError: The training set has no integer labels.
    """
    new = labels_of(train_set).clone()
    new[list(samples)] = torch.as_tensor(list(labels), dtype=new.dtype)
    if type(train_set) is TensorDataset:
        tensors = list(train_set.tensors)
        place = max(i for i, t in enumerate(tensors) if not t.is_floating_point() and t.dim() == 1)
        tensors[place] = new.to(tensors[place].dtype)
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
