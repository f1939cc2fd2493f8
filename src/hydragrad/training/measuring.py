"""Evaluations of a model on data: losses, logits, mean loss and accuracy."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hydragrad.derivatives import Evaluator, PerSampleLoss, tensor_leaves
from hydragrad.replay import fetch

SAMPLES_PER_CHUNK = 500


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The evaluation of some samples.

    Attributes:
        losses: (samples,).
        logits: (samples, classes); None where the model is called more than once or returns something else.
        labels: Integer labels, (samples,), if the batch has any.
    """

    losses: Tensor
    logits: Tensor | None
    labels: Tensor | None


def evaluated(
    model: nn.Module, loss: PerSampleLoss, length: int, fetch_batch: Callable[[range], Any]
) -> Iterator[Evaluated]:
    """Evaluate samples 0 to length - 1 in chunks, in eval mode; the model's mode is restored afterwards.

    Args:
        model: Is not changed.
        loss: Per-sample losses.
        length: Number of samples.
        fetch_batch: Returns the batch of consecutive samples.
    """
    training, evaluate = model.training, Evaluator(loss)
    outputs: list[Any] = []
    handle = model.register_forward_hook(lambda _m, _i, output: outputs.append(output))
    try:
        model.eval()
        with torch.no_grad():
            for start in range(0, length, SAMPLES_PER_CHUNK):
                outputs.clear()
                data = fetch_batch(range(start, min(length, start + SAMPLES_PER_CHUNK)))
                losses = evaluate(model, data)
                yield Evaluated(losses=losses, logits=_logits(outputs, len(losses)), labels=_labels(data, len(losses)))
    finally:
        handle.remove()
        model.train(training)


def mean_loss_and_accuracy(model: nn.Module, loss: PerSampleLoss, dataset: Dataset[Any]) -> tuple[float, float | None]:
    """Return mean loss, and share of right predictions (None where there are no logits or integer labels).

    The model is evaluated in eval mode; its mode is restored afterwards.
    """
    length = len(dataset)  # type: ignore[arg-type]
    device = next(model.parameters()).device
    total, right, classifies = 0.0, 0, True
    chunks = evaluated(
        model, loss, length, lambda indices: fetch(dataset, indices, seed=0, collate=None, device=device)
    )
    for part in chunks:
        total += part.losses.double().sum().item()
        if part.logits is None or part.labels is None:
            classifies = False
        else:
            right += int((part.logits.argmax(1) == part.labels).sum())
    return total / length, right / length if classifies else None


def _logits(outputs: list[Any], size: int) -> Tensor | None:
    if len(outputs) != 1 or not isinstance(outputs[0], Tensor) or outputs[0].dim() != 2 or len(outputs[0]) != size:
        return None
    return outputs[0]


def _labels(data: Any, size: int) -> Tensor | None:
    candidates = [leaf for leaf in tensor_leaves(data) if not leaf.is_floating_point() and leaf.shape == (size,)]
    return candidates[-1] if candidates else None
