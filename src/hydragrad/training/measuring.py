"""Evaluations of a model on data: losses, logits, mean loss and accuracy."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hydragrad.derivatives import (
    Evaluator,
    Label,
    PerSampleLoss,
    find_label,
    labels_by_value,
    possible_logits,
    probes,
    tensor_leaves,
)
from hydragrad.errors import LossError
from hydragrad.replay import fetch

SAMPLES_PER_CHUNK = 500


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The evaluation of some samples.

    Attributes:
        losses: (samples,).
        output: The output that the loss compares with the labels, (samples, classes); None without labels, or where
            the model is called more than once.
        labels: Integer labels, (samples,), where the loss compares the output with labels of the batch.
        softmax: Whether the output is logits, as far as the loss knows: its softmax is the probabilities.
    """

    losses: Tensor
    output: Tensor | None
    labels: Tensor | None
    softmax: bool


def evaluated(
    model: nn.Module,
    loss: PerSampleLoss,
    samples: Sequence[int],
    fetch_batch: Callable[[Sequence[int]], Any],
    *,
    length: int,
) -> Iterator[Evaluated]:
    """Evaluate samples of a data set in chunks, in eval mode; the model's mode is restored afterwards.

    Args:
        model: Is not changed.
        loss: Per-sample losses.
        samples: Which ones.
        fetch_batch: Returns the batch of some samples.
        length: Samples of the data set; some of them show which tensor is the label, where the losses do not.
    """
    training, evaluate = model.training, Evaluator(loss)
    outputs: list[Any] = []
    finder = _Finder(model, loss, fetch_batch, length)
    handle = model.register_forward_hook(lambda _m, _i, output: outputs.append(output))
    try:
        model.eval()
        with torch.no_grad():
            for start in range(0, len(samples), SAMPLES_PER_CHUNK):
                data = fetch_batch(samples[start : start + SAMPLES_PER_CHUNK])
                leaves = tensor_leaves(data)
                outputs.clear()
                losses = evaluate(model, data)
                yield _evaluated(losses, outputs, leaves, finder)
    finally:
        handle.remove()
        model.train(training)


def mean_loss_and_accuracy(model: nn.Module, loss: PerSampleLoss, dataset: Dataset[Any]) -> tuple[float, float | None]:
    """Return mean loss, and share of right predictions (None where the loss compares no output with labels).

    The model is evaluated in eval mode; its mode is restored afterwards.
    """
    length = len(dataset)  # type: ignore[arg-type]
    device = next(model.parameters()).device
    total, right, classifies = 0.0, 0, True

    def fetched(indices: Sequence[int]) -> Any:
        return fetch(dataset, indices, seed=0, collate=None, device=device)

    for part in evaluated(model, loss, range(length), fetched, length=length):
        total += part.losses.double().sum().item()
        if part.output is None or part.labels is None:
            classifies = False
        else:
            right += int((part.output.argmax(1) == part.labels).sum())
    return total / length, right / length if classifies else None


class _Finder:
    """Finds the label of a data set once, where the value of the losses does not show it."""

    def __init__(
        self, model: nn.Module, loss: PerSampleLoss, fetch_batch: Callable[[Sequence[int]], Any], length: int
    ) -> None:
        self._find = partial(find_label, model, lambda data: loss(model, data))
        self._batches = (fetch_batch(part) for part in probes(length))

    @cached_property
    def label(self) -> Label | None:
        """The label; None where no tensor is it, or several are."""
        try:
            return self._find(self._batches)
        except LossError:
            return None


def _evaluated(losses: Tensor, outputs: list[Any], leaves: list[Tensor], finder: _Finder) -> Evaluated:
    """Tell the labels of a batch by the value of its losses, or else by how the loss behaves."""
    possible = possible_logits(outputs, len(losses)) if len(outputs) == 1 else []
    for output in possible:
        labels = labels_by_value(output, losses, leaves)
        if labels is not None:
            return Evaluated(losses=losses, output=output, labels=labels, softmax=True)
    label = finder.label
    try:
        labels = None if label is None else label.of(leaves)
    except LossError:
        labels = None
    if label is None or labels is None:
        return Evaluated(losses=losses, output=None, labels=None, softmax=False)
    output_of_label = possible[label.output] if possible else None
    return Evaluated(losses=losses, output=output_of_label, labels=labels, softmax=label.softmax)
