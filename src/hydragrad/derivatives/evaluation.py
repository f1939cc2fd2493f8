"""Evaluating the user's loss: every evaluation gets a batch of its own.

A step's batch is evaluated many times: replayed, and differentiated along several directions. A loss or model that
takes something out of it, or writes into its tensors, must not be felt by the next evaluation. Containers and
tensor objects are made afresh each time. Tensors share the batch's memory, unless the loss was seen to write into
it: its first batch is always a copy.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hydragrad.derivatives.leaves import map_leaves, tensor_leaves
from hydragrad.errors import LossError
from hydragrad.surroundings import users_default_device

NO_GRADIENT = "does not require grad"
"""What torch says where a gradient is taken inside a block without gradients."""


class OwnBatch(NamedTuple):
    """A copy of a batch around one evaluation.

    Attributes:
        data: The copy.
        tensors: Those that the evaluation gets.
        versions: Of them, before it.
    """

    data: Any
    tensors: list[Tensor]
    versions: list[int]


class OwnBatches:
    """Makes batches of their own for the evaluations of one loss, and learns whether it writes into them."""

    def __init__(self) -> None:
        self._known = self._writes = False

    def own(self, data: Any, *, original_is_evaluated: bool = False) -> OwnBatch:
        """Copy a batch: for the next evaluation, or for what comes after an evaluation of the original."""
        batch = map_leaves(data, _own_object if self._known and not self._writes else own_memory)
        tensors = tensor_leaves(data if original_is_evaluated else batch)
        return OwnBatch(batch, tensors, [_version(tensor) for tensor in tensors])

    def evaluated(self, batch: OwnBatch) -> None:
        """Note an evaluation, around which `own` made the batch.

        Raises:
            LossError: It wrote into this batch, and into no batch before.
        """
        wrote = [_version(tensor) for tensor in batch.tensors] != batch.versions
        if wrote and self._known and not self._writes:
            raise LossError(
                "The loss and the model must treat all batches alike, and they changed this batch in place, but not "
                "the first one. Write x = x - mean rather than x -= mean."
            )
        self._known, self._writes = True, self._writes or wrote


class Evaluator:
    """A loss that can be evaluated on the same batch any number of times.

    Args:
        loss: The user's `loss(model, batch)`.
    """

    def __init__(self, loss: Any) -> None:
        self._loss, self._batches = loss, OwnBatches()
        self._differentiates = False

    def __call__(self, model: Any, data: Any) -> Tensor:
        """Evaluate the loss on a batch, which stays as it is.

        Raises:
            LossError: It changed the batch in place, and its first batch not.
        """
        if torch.is_grad_enabled():
            return self._evaluated(model, data)
        if not self._differentiates:
            try:
                return self._evaluated(model, data)
            except RuntimeError as error:
                if NO_GRADIENT not in str(error):
                    raise
                self._differentiates = True  # The loss takes a gradient itself.
        with torch.enable_grad():
            losses = self._evaluated(model, data)
        return losses.detach() if isinstance(losses, Tensor) else losses

    def _evaluated(self, model: Any, data: Any) -> Tensor:
        batch = self._batches.own(data)
        with users_default_device():
            losses: Tensor = self._loss(model, batch.data)
        self._batches.evaluated(batch)
        return losses


def own_memory(leaf: Any) -> Any:
    """A copy of a tensor or an array; anything else as it is."""
    if isinstance(leaf, Tensor):
        return _requiring(leaf.detach().clone(), leaf)
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


def _own_object(leaf: Any) -> Any:
    """Another object over the same memory: what is set on it, as requires_grad, stays with it."""
    if not isinstance(leaf, Tensor) or leaf.is_inference():
        return own_memory(leaf)
    return _requiring(leaf.detach(), leaf)


def _requiring(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that requires a gradient where another does; transforms of torch.func let nobody say so."""
    return tensor.requires_grad_() if like.requires_grad else tensor


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
