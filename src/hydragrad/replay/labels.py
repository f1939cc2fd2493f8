"""The labels that a run was trained on: which tensor of its batches they are, and what it holds for every sample."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from hydragrad.derivatives import Label, Target, find_label, find_target, probes
from hydragrad.errors import LossError
from hydragrad.randomness import preserved
from hydragrad.replay.recording import Recording
from hydragrad.replay.trained import Trained, samples_in

STEPS = 8
"""Steps of the run whose batches are looked at, at most."""

AT_ONCE = 1000
"""Samples that are collated at a time."""


def label_of(run: Trained) -> Label:
    """Find which tensor of the run's batches is the label: `derivatives.label_search` says how.

    Raises:
        LossError: None is, or several are.

    Cost: a few forward passes of one batch, and of some more where it does not decide.
    """
    model = run.trained_model().train()
    with preserved():
        return find_label(model, lambda data: run.loss(model, data), _batches(run))


def target_of(run: Trained) -> Target:
    """Find the target where it is more than one class a sample: `derivatives.target_search` says how.

    Raises:
        LossError: No tensor of the batches is one, or several are.

    Cost: a few evaluations of the loss with the model's output held, for every tensor of one batch.
    """
    model = run.trained_model().train()
    with preserved():
        return find_target(model, lambda data: run.loss(model, data), _batches(run))


def labels_of(run: Trained, samples: Sequence[int] | None = None) -> Tensor:
    """The labels that samples were trained on, int64 (samples,); of all samples if None.

    Warns where the data set's own `targets` or `labels` say something else: the run was trained on what the batches
    hold.

    Raises:
        LossError: No tensor of the batches is the label, or several are; or a sample has none of the classes.

    Cost: the samples are fetched once.
    """
    label = label_of(run)
    samples = range(samples_in(run)) if samples is None else samples
    parts = []
    for start in range(0, len(samples), AT_ONCE):
        some = list(samples[start : start + AT_ONCE])
        with preserved():
            parts.append(label.of(run.collate(some)).cpu())
        if len(parts[-1]) != len(some):
            raise LossError(
                f"collate must return one label a sample, {len(some)}; tensor {label.name} of its batch holds "
                f"{len(parts[-1])}. Have it return the samples that it is given."
            )
    labels = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)
    warn_of_other_labels(labels, samples, run.train_set)
    return labels


def warn_of_other_labels(labels: Tensor, samples: Sequence[int], dataset: Dataset[Any]) -> None:
    """Warn of a data set whose own list of labels holds others than the batches; transformed ones may differ.

    Args:
        labels: What the batches hold for the samples, int64 (samples,).
        samples: Which ones.
        dataset: The training set.
    """
    own = own_labels(dataset)
    if own is None or not len(samples):
        return
    differ = (own[torch.as_tensor(list(samples))] != labels).nonzero().flatten()
    if len(differ):
        first = int(differ[0])
        warnings.warn(
            f"The data set's own list of labels differs from what its items hold, for {len(differ):,} of "
            f"{len(samples):,} samples (sample {samples[first]}: {int(own[samples[first]])} and {int(labels[first])}). "
            f"The run was trained on the items' labels, and they are taken.",
            stacklevel=4,
        )


def own_labels(dataset: Any) -> Tensor | None:
    """The attribute `targets` or `labels` of a data set as int64 (samples,), or None: absent, or transformed later."""
    if isinstance(dataset, Subset):
        own = own_labels(dataset.dataset)
        return None if own is None else own[torch.as_tensor(list(dataset.indices))]
    if getattr(dataset, "target_transform", None) is not None or getattr(dataset, "transforms", None) is not None:
        return None
    for name in ("targets", "labels"):
        try:
            own = torch.as_tensor(np.asarray(getattr(dataset, name, None)))
            if not own.is_complex() and own.shape == (len(dataset),) and bool((own == own.long()).all()):
                return own.long()
        except (TypeError, ValueError, RuntimeError):
            pass  # names, objects, nothing
    return None


def _batches(run: Trained) -> Iterator[Any]:
    """Data of steps that are evenly spaced over the run; of some samples where no steps were recorded."""
    if not isinstance(run, Recording):
        yield from (run.collate(some) for some in probes(samples_in(run)))
        return
    places = np.linspace(0, len(run.steps) - 1, min(STEPS, len(run.steps))).astype(int)
    for place in dict.fromkeys(places.tolist()):
        for batch in run.batches(run.steps[place]):
            yield batch.data
