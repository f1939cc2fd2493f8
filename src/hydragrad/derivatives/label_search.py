"""Which tensor of a batch is the label: found from how the loss behaves, never from where the tensor stands.

A leaf of the batch is a *candidate* where it holds one whole number a sample, (batch,) or (batch, 1) of any dtype, or
one one-hot row a sample, (batch, classes). The loss is evaluated with the model's output held, and again with every
candidate in turn replaced by other values that it has elsewhere in the batch (others may be out of range, which ends a
GPU's work). Two candidates that hold the same numbers are told apart like this, and the loss need not be plain
cross-entropy.

    targets   candidates that turn the gradient of a sample's loss in the output; those that only scale it are weights
              or groups, and those without effect are indices, or inputs of the model
    label     the one target, if class b in place of class a lowers the gradient at b and raises it at a, as
              softmax - one-hot does: cross-entropy with smoothing or class weights, focal and margin losses

A candidate that is the same class for all samples gets the next class, but on a GPU only where the losses are its
cross-entropy; one that can't be tried is looked at in further batches. Two targets (two heads, mixed labels) and none
are refused by name.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hydragrad.derivatives.held_outputs import HeldOutputs
from hydragrad.derivatives.label_leaf import (
    Label,
    class_numbers,
    encoded,
    leaf_name,
    plain_cross_entropy,
    whole_numbers,
    with_values,
)
from hydragrad.derivatives.leaves import tensor_leaves
from hydragrad.errors import LossError
from hydragrad.randomness import preserved

PROBED = 32
"""Samples of a batch in which the label is looked for."""

PARALLEL = 1e-4
"""1 less the cosine of two gradients that have the same direction, at most."""


def find_label(model: nn.Module, loss_of: Callable[[Any], Tensor], batches: Iterable[Any]) -> Label:
    """Find the label among the leaves of batches.

    Args:
        model: Called by the loss; its output is held while leaves are replaced.
        loss_of: Per-sample losses (batch,) of a batch's data; may change what it gets.
        batches: Data of some batches; more of them are looked at until one decides.

    Raises:
        LossError: No leaf behaves as a label, or several do.

    Cost: of a batch, one evaluation and one for every candidate.
    """
    clues = _Clues()
    for data in batches:
        with preserved(), torch.enable_grad():
            clues.add(_look(model, loss_of, data))
        if clues.decided:
            break
    if clues.label is None:
        raise LossError(clues.refusal)
    return clues.label


def probes(length: int) -> Iterator[list[int]]:
    """Samples of a data set in which to look for the label: evenly spaced ones, then the first, then random ones."""
    if length <= PROBED:
        yield list(range(length))
        return
    yield [i * length // PROBED for i in range(PROBED)]
    yield list(range(PROBED))
    yield torch.randint(length, (4 * PROBED,), generator=torch.Generator().manual_seed(0)).tolist()


@dataclass(frozen=True)
class _Look:
    """What one batch shows, by number of the leaf.

    Attributes:
        data: The batch.
        untried: Leaves that might be labels, with nothing to put in their place.
        targets: Leaves that turn the gradient.
        labels: Those among them that do so as labels.
        only_class: Leaves whose cross-entropy is the loss of an output with a single class.
    """

    data: Any
    untried: set[int] = field(default_factory=set)
    targets: set[int] = field(default_factory=set)
    labels: dict[int, Label] = field(default_factory=dict)
    only_class: dict[int, Label] = field(default_factory=dict)


class _Clues:
    """What the batches have shown so far."""

    def __init__(self) -> None:
        self._looks: list[_Look] = []
        self._targets: set[int] = set()

    def add(self, look: _Look) -> None:
        """Take in what one more batch shows."""
        self._looks.append(look)
        self._targets |= look.targets

    @property
    def decided(self) -> bool:
        """Whether there is a target, and every leaf was tried."""
        return bool(self._targets) and not set.intersection(*(look.untried for look in self._looks))

    @property
    def label(self) -> Label | None:
        """The one target, if it was a label wherever it was a target; of a single class, the one leaf that fits."""
        if not self._looks or len(self._targets) > 1:
            return None
        if not self._targets:
            fitting = self._looks[-1].only_class
            return next(iter(fitting.values())) if len(fitting) == 1 else None
        (target,) = self._targets
        seen = [look.labels.get(target) for look in self._looks if target in look.targets]
        return seen[0] if all(seen) else None

    @property
    def refusal(self) -> str:
        """Why there is no label."""
        expected = "Exactly one tensor of the batch must be the label: integer labels (batch,), or one-hot rows"
        names = [leaf_name(self._looks[-1].data, leaf) for leaf in sorted(self._targets)] if self._looks else []
        if len(names) > 1:
            found = f"the loss compares the output with {len(names)}: {', '.join(names[:-1])} and {names[-1]}"
        elif names:
            found = f"the loss depends on {names[0]}, but not as on the class among the columns of the model's output"
        else:
            found = "the loss compares the model's output (batch, classes) with no such tensor of the batch"
        return f"{expected}; {found}. Leave out what needs labels, or give the loss one label."


def _look(model: nn.Module, loss_of: Callable[[Any], Tensor], data: Any) -> _Look:
    """Look at one batch: which leaves turn the gradient, and how."""
    held, leaves = HeldOutputs(model), tensor_leaves(data)
    losses, before = held.gradients(loss_of, data, held.logits)
    outputs, widths = held.logits(len(losses)), [gradient.shape[1] for gradient in before]
    plain = plain_cross_entropy(outputs[0], losses, leaves) if len(before) == 1 else {}
    look = _Look(data)
    for number, leaf in enumerate(leaves):
        given = _numbers(leaf, len(losses), widths)
        if given is None or any(leaf is earlier for earlier in leaves[:number]):
            continue
        other = _others(given, min(widths, default=0), any_class=number in plain or leaf.device.type == "cpu")
        if other is None:
            look.untried.add(number)
            continue
        try:
            _, after = held.gradients(loss_of, with_values(data, number, encoded(leaf, other)), held.logits)
        except Exception:  # a loss that refuses other values of this leaf
            continue
        for place, (was, now) in enumerate(zip(before, after, strict=False)):
            follows = _follows(was, now, given, other)
            if follows or _turned(was, now):
                look.targets.add(number)
            if follows:
                look.labels[number] = _label(data, number, outputs, place, was)
    if widths == [1]:
        look.only_class.update({number: _label(data, number, outputs, 0, before[0]) for number in plain})
    return look


def _label(data: Any, number: int, outputs: Sequence[Tensor], place: int, gradient: Tensor) -> Label:
    leaf, output = tensor_leaves(data)[number], outputs[place]
    sums = gradient.sum(1).abs() <= 1e-4 * gradient.abs().sum(1)  # of a function of differences of the outputs
    normalised = output.detach().logsumexp(1).abs() <= 1e-4  # log-probabilities
    return Label(
        leaf=number,
        name=leaf_name(data, number),
        classes=output.shape[1],
        one_hot=leaf.dim() == 2 and leaf.shape[1] > 1,
        softmax=bool(sums.all()) or bool(normalised.all()),
        output=place,
    )


def _numbers(leaf: Tensor, size: int, columns: Sequence[int]) -> Tensor | None:
    """A leaf as one whole number a sample, int64 (batch,), or None: of its values, or of its one-hot rows."""
    if leaf.is_nested or leaf.shape[:1] != (size,):
        return None
    if leaf.numel() == size:
        numbers = whole_numbers(leaf)
        return None if numbers is None else numbers.reshape(-1)
    return next((found for width in columns if (found := class_numbers([leaf], 0, width)) is not None), None)


def _others(values: Tensor, classes: int, *, any_class: bool) -> Tensor | None:
    """In place of every value the next larger one that occurs, and the smallest in place of the largest.

    Where all are the same class, the next class, if any may be put there; else None.
    """
    known: Tensor
    known, places = values.unique(return_inverse=True)
    if len(known) > 1:
        return known[(places + 1) % len(known)]
    if any_class and classes > 1 and 0 <= int(known) < classes:
        return (values + 1) % classes
    return None


def _turned(before: Tensor, after: Tensor) -> bool:
    """Whether the gradient of some sample has another direction now."""
    lengths = before.norm(dim=1) * after.norm(dim=1)
    products = (before * after).sum(1)
    return bool(((lengths > 0) & (products < (1 - PARALLEL) * lengths)).any())


def _follows(before: Tensor, after: Tensor, given: Tensor, other: Tensor) -> bool:
    """Whether the gradient falls at the class that is given now, and rises at the one that was, in most samples."""
    classes = before.shape[1]
    known = (given >= 0) & (given < classes) & (other >= 0) & (other < classes)
    if not known.any():
        return False
    change = (after - before)[known]
    rise = change.gather(1, given[known][:, None])[:, 0]
    fall = -change.gather(1, other[known][:, None])[:, 0]
    noise = 1e-6 * (before.abs().amax(1) + after.abs().amax(1))[known]
    both = torch.stack([rise, fall])
    return bool((both >= -noise).all() and (both > noise).all(0).double().mean() > 0.5)
