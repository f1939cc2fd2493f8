"""The label among the tensors of a batch: what it holds, how it is replaced, whether the losses are its cross-entropy.

`label_search` finds it from how the loss behaves. Where the losses of a batch equal the cross-entropy of the model's
output with a leaf, their value shows as much, for this batch: two leaves that fit have the same labels there.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from hydragrad.derivatives.leaves import tensor_leaves
from hydragrad.errors import LossError


@dataclass(frozen=True)
class Label:
    """Where a batch holds the label.

    Attributes:
        leaf: Its number among the batch's tensor leaves.
        name: Where it stands: "[1]", "['labels']".
        classes: Number of classes: columns of the model's output.
        one_hot: It holds a one-hot row a sample in place of a number.
        output: Which of the `possible_logits` the loss compares it with.
        softmax: The softmax of the model's output is the probability of every class, as far as the loss knows: it sees
            differences of outputs only, or log-probabilities. Not so for probabilities, sigmoids and squares.
    """

    leaf: int
    name: str
    classes: int
    one_hot: bool
    softmax: bool
    output: int = 0

    def of(self, data: Any) -> Tensor:
        """The labels of a batch, int64 (batch,).

        Raises:
            LossError: The batch has no such leaf, or some of its values are no classes.
        """
        labels = class_numbers(tensor_leaves(data), self.leaf, self.classes)
        if labels is None:
            self._refuse()
        return labels

    def replaced(self, data: Any, labels: Tensor) -> Any:
        """A copy of a batch with other labels where `labels`, (batch,), are not negative; dtype and shape stay.

        Raises:
            LossError: A label that is no class; or as `of` does.
        """
        leaves, chosen = tensor_leaves(data), (labels >= 0).nonzero().flatten()
        if self.leaf >= len(leaves) or leaves[self.leaf].shape[:1] != labels.shape:
            self._refuse()
        leaf = wide(leaves[self.leaf]).clone()
        chosen, labels = chosen.to(leaf.device), labels.to(leaf.device)
        if len(chosen) and class_numbers([leaf[chosen]], 0, self.classes) is None:
            self._refuse()
        if len(labels) and int(labels.max()) >= self.classes:
            raise LossError(
                f"Labels must be 0 to {self.classes - 1}, as the model has {self.classes} outputs; got "
                f"{int(labels.max())}. Pass a class that exists."
            )
        leaf[chosen] = encoded(leaf[chosen], labels[chosen])
        return with_values(data, self.leaf, leaf)

    def _refuse(self) -> NoReturn:
        raise LossError(
            f"The label of every sample must be a class, 0 to {self.classes - 1}, or a one-hot row; tensor {self.name} "
            f"of this batch holds something else. Leave samples without a label out of the data set, or out of what "
            f"needs labels."
        )


def possible_logits(output: Any, size: int) -> list[Tensor]:
    """Tensors of a model's output, or of several ones, that may be logits: floating-point, (size, classes)."""
    floating = [leaf for leaf in tensor_leaves(output) if leaf.is_floating_point() and not leaf.is_nested]
    return [leaf for leaf in floating if leaf.dim() == 2 and len(leaf) == size]


def labels_by_value(output: Tensor, losses: Tensor, leaves: Sequence[Tensor]) -> Tensor | None:
    """The labels of a batch, int64 (batch,), if its losses are plain cross-entropy with them; else None.

    Also None where several leaves with different values fit (equal logits).

    Args:
        output: Logits, (batch, classes).
        losses: (batch,).
        leaves: Tensor leaves of the batch as they were before the loss ran.
    """
    fitting = list(plain_cross_entropy(output, losses, leaves).values())
    same = all(torch.equal(labels, fitting[0]) for labels in fitting)
    return fitting[0] if fitting and same else None


def plain_cross_entropy(output: Tensor, losses: Tensor, leaves: Sequence[Tensor]) -> dict[int, Tensor]:
    """Leaves whose cross-entropy with the output is the loss, by number, as int64 labels (batch,)."""
    if output.dim() != 2 or output.shape[:1] != losses.shape:
        return {}
    fitting = {}
    logits, losses = output.detach().double(), losses.detach()
    rounding = min(1e-3, 100 * torch.finfo(losses.dtype).eps)
    size = logits.abs().amax(1).nan_to_num(0.0, 0.0, 0.0) + losses.double().abs()
    for number in range(len(leaves)):
        labels = class_numbers(leaves, number, output.shape[1])
        if labels is not None and labels.shape == losses.shape:
            plain = F.cross_entropy(logits, labels.to(logits.device), reduction="none")
            if bool(((plain - losses.double()).abs() <= rounding * (1 + size)).all()):
                fitting[number] = labels
    return fitting


def class_numbers(leaves: Sequence[Tensor], number: int, classes: int) -> Tensor | None:
    """A leaf as classes, int64 (batch,): whole numbers 0 to classes - 1, or one-hot rows; None for other leaves."""
    leaf = leaves[number] if number < len(leaves) else torch.empty(())
    one_a_sample = leaf.dim() > 0 and leaf.numel() == len(leaf)
    if leaf.is_nested or (not one_a_sample and (leaf.dim() != 2 or leaf.shape[1] != classes)):
        return None
    whole = whole_numbers(leaf)
    if whole is None:
        return None
    if one_a_sample:
        whole = whole.reshape(-1)
        return whole if bool(((whole >= 0) & (whole < classes)).all()) else None
    one_hot = ((whole == 0) | (whole == 1)).all(1) & (whole.sum(1) == 1)
    return whole.argmax(1) if bool(one_hot.all()) else None


def whole_numbers(leaf: Tensor) -> Tensor | None:
    """A leaf as int64; None where it holds nothing or something else."""
    if not leaf.numel() or leaf.is_complex() or leaf.is_quantized or leaf.layout is not torch.strided:
        return None
    values = wide(leaf.detach())
    whole = values.long()
    return whole if not leaf.is_floating_point() or bool((whole == values).all()) else None


def wide(leaf: Tensor) -> Tensor:
    """A leaf as float64 or int64: not every dtype has the operations that labels need."""
    return leaf.double() if leaf.is_floating_point() else leaf.long()


def leaf_name(data: Any, number: int) -> str:
    """Where a tensor leaf stands in a batch: "[1]", "['labels']"; its number where that can't be said."""
    names = list(_names(data, ""))
    return names[number] if len(names) == len(tensor_leaves(data)) else f"number {number}"


def encoded(like: Tensor, labels: Tensor) -> Tensor:
    """Labels (batch,) in the dtype and shape of a leaf."""
    if like.dim() == 2 and like.shape[1] > 1:
        return F.one_hot(labels.long(), like.shape[1]).to(like)
    return labels.reshape(like.shape).to(like)


def with_values(data: Any, number: int, values: Tensor) -> Any:
    """A copy of the data with other values in one leaf."""
    changed = copied(data)
    leaf = tensor_leaves(changed)[number]
    try:
        leaf.copy_(values)
    except RuntimeError as error:
        raise LossError(
            f"The label of every sample must be a number of its own in the batch; tensor {leaf_name(data, number)} "
            f"can't be written ({str(error).splitlines()[0]}). Have collate return a tensor that owns its memory."
        ) from error
    return changed


def copied(data: Any) -> Any:
    """A copy of a batch's data.

    Raises:
        LossError: Something in it can't be copied.
    """
    try:
        return copy.deepcopy(data)
    except Exception as error:  # of whatever the user's collate made
        raise LossError(
            f"Labels are looked for and replaced in copies of a batch; this one can't be copied "
            f"({type(error).__name__}: {str(error)[:80]}). Have collate return tensors in lists, tuples or dicts."
        ) from error


def _names(data: Any, name: str) -> Iterator[str]:
    if isinstance(data, Tensor):
        yield name or "of the batch"
    elif hasattr(data, "items"):
        for key, part in data.items():
            yield from _names(part, f"{name}[{key!r}]")
    elif isinstance(data, list | tuple):
        for place, part in enumerate(data):
            yield from _names(part, f"{name}[{place}]")
