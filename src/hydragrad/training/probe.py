"""Checks before the first step: an error that would come up hours into a run is raised now."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset, TensorDataset

from hydragrad.derivatives import PerSampleLoss, copy_of, require_differentiable
from hydragrad.errors import DataError
from hydragrad.randomness import preserved
from hydragrad.replay import fetch, require_finite, require_map_style
from hydragrad.replay.data import Collate
from hydragrad.steps import rule_of
from hydragrad.training.loop import batch_losses


def require_trainable(
    model: nn.Module, loss: PerSampleLoss, train_set: Dataset[Any], optimizer: Optimizer, batch_size: int
) -> None:
    """Raise, before anything is computed or written, what a recorded training would raise.

    Raises:
        Unsupported: An optimizer whose step is not known, half precision, a module without derivatives.
        DataError: A data set without [index], no samples, NaN in tensors in memory, labels out of range.
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
        DataError: The loss refuses a label; the message names the sample.
    """
    if type(train_set) is not TensorDataset:
        return
    labels = [t for t in train_set.tensors if t.dim() == 1 and _is_integer(t)]
    extremes = sorted({int(index) for tensor in labels for index in (tensor.argmin(), tensor.argmax())})
    if not extremes:
        return
    cpu = torch.device("cpu")  # on a GPU, a label out of range is no IndexError and ends every further use of the GPU
    with preserved(), torch.no_grad():
        probed = copy_of(model).to(cpu).eval()
        for index in extremes:
            data = fetch(train_set, [index] * batch_size, seed=0, collate=collate, device=cpu)
            try:
                batch_losses(partial(loss, probed), data, [index])
            except DataError:
                raise
            except Exception:
                return  # the first step raises other errors of the loss


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool)
