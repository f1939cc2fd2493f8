"""A look at what is given before the first step: what would be refused hours into a run is refused now."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset, TensorDataset

from hydragrad.derivatives import PerSampleLoss, require_differentiable
from hydragrad.errors import DataError
from hydragrad.randomness import preserved
from hydragrad.replay import fetch, require_finite, require_map_style
from hydragrad.replay.data import Collate
from hydragrad.steps import rule_of
from hydragrad.training.loop import batch_losses


def require_trainable(
    model: nn.Module, loss: PerSampleLoss, train_set: Dataset[Any], optimizer: Optimizer, batch_size: int
) -> None:
    """Refuse, before anything is computed or written, what a recorded training would refuse.

    Raises:
        Unsupported: An optimizer whose step is not known, half precision, a module without derivatives.
        DataError: A stream, no samples, NaN in memory, labels out of range.
    """
    rule_of(optimizer)
    require_differentiable(model)
    require_map_style(train_set)
    require_finite(train_set)
    require_labels_in_range(model, loss, train_set, min(batch_size, len(train_set)))  # type: ignore[arg-type]


def require_labels_in_range(
    model: nn.Module, loss: PerSampleLoss, train_set: Dataset[Any], batch_size: int, collate: Collate | None = None
) -> None:
    """Evaluate the loss on the samples with the least and the greatest label, if the data are in memory.

    Raises:
        DataError: Names the sample whose label the loss refuses.
    """
    if type(train_set) is not TensorDataset:
        return
    labels = [t for t in train_set.tensors if t.dim() == 1 and _is_integer(t)]
    extremes = sorted({int(index) for tensor in labels for index in (tensor.argmin(), tensor.argmax())})
    if not extremes:
        return
    cpu = torch.device("cpu")  # where a label out of range is an IndexError; a GPU would be lost to the process
    with preserved(), torch.no_grad():
        watched = copy.deepcopy(model).to(cpu).eval()
        for index in extremes:
            data = fetch(train_set, [index] * batch_size, seed=0, collate=collate, device=cpu)
            try:
                batch_losses(watched, loss, data, [index])
            except DataError:
                raise
            except Exception:
                return  # whatever else is wrong with the loss, the first step will say


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool)
