"""Loss and accuracy of a model on held-out data."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hydragrad.derivatives import PerSampleLoss, tensor_leaves
from hydragrad.recording import fetch

CHUNK = 500


def mean_loss_and_accuracy(model: nn.Module, loss: PerSampleLoss, dataset: Dataset[Any]) -> tuple[float, float | None]:
    """Mean loss, and share of right predictions (None where there are no logits or integer labels).

    The model is used in eval mode and left in the mode it was in.
    """
    training, length = model.training, len(dataset)  # type: ignore[arg-type]
    device = next(model.parameters()).device
    total, right = 0.0, 0
    outputs: list[Any] = []
    handle = model.register_forward_hook(lambda _m, _i, output: outputs.append(output))
    try:
        model.eval()
        with torch.no_grad():
            for start in range(0, length, CHUNK):
                indices = range(start, min(length, start + CHUNK))
                data = fetch(dataset, indices, seed=0, collate=None, device=device)
                outputs.clear()
                total += loss(model, data).double().sum().item()
                hits = _right(outputs, data)
                right = -1 if hits is None or right < 0 else right + hits
    finally:
        handle.remove()
        model.train(training)
    return total / length, None if right < 0 else right / length


def _right(outputs: Sequence[Any], data: Any) -> int | None:
    if len(outputs) != 1 or not isinstance(outputs[0], Tensor) or outputs[0].dim() != 2:
        return None
    labels = [leaf for leaf in tensor_leaves(data) if not leaf.is_floating_point() and leaf.dim() == 1]
    return int((outputs[0].argmax(1) == labels[-1]).sum()) if labels else None
