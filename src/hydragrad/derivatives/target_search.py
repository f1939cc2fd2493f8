"""Which tensor of a batch is the target, where it is not one class a sample: found from how the loss behaves.

The model's output is held. A leaf of the batch is replaced by that of other samples, and the output by others, and the
gradient of the losses in the output says what the leaf is to the loss:

    values       the gradient moves against the leaf, and is 0 where the output is the leaf, positive above it and
                 negative below: squares, absolute values, Huber. Not quantiles, nor outputs on another scale
    multi-label  0 or 1 of the output's shape; whatever the output, the gradient is not positive where the leaf is 1,
                 and not negative where it is 0: binary cross-entropy, with class weights or without
    positions    whole numbers (batch, positions...) next to an output with one more dimension, of classes; another
                 class at a position lowers the gradient there, and raises it at the one that was

Padding and what a mask leaves out have no gradient and are not looked at. A leaf that fits must be the only one.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hydragrad.derivatives.held_outputs import HeldOutputs
from hydragrad.derivatives.label_leaf import leaf_name, whole_numbers, with_values
from hydragrad.derivatives.leaves import tensor_leaves
from hydragrad.derivatives.target import Target, between_0_and_1, put, squeezed, undecided
from hydragrad.errors import LossError
from hydragrad.randomness import preserved

SURE = 3.0
"""Logit of an output that is sure of a class."""

SMALL, LARGE_RATIO = 1e-3, 20.0
"""A gradient so many times larger at this output than at 0.5 is that of a logarithm: the output is probabilities."""


def find_target(model: nn.Module, loss_of: Callable[[Any], Tensor], batches: Iterable[Any]) -> Target:
    """Find the target among the leaves of batches.

    Args:
        model: Called once by the loss; its output is held while leaves are replaced.
        loss_of: Per-sample losses (batch,) of a batch's data.
        batches: Data of some batches; the first that shows a target decides.

    Raises:
        LossError: No leaf behaves as a target, or several do.

    Cost: of a batch, one evaluation and a few for every leaf that might be a target.
    """
    for data in batches:
        with preserved(), torch.enable_grad():
            fitting = list(_Look(model, loss_of, data).targets())
        if len({target.leaf for target in fitting}) > 1:
            names = " and ".join(dict.fromkeys(target.name for target in fitting))
            raise LossError(
                f"Exactly one tensor of the batch must be the target; the loss compares the output with {names}."
            )
        if fitting:
            return fitting[0]
    raise LossError(
        "The target must be classes, values, 0 or 1 for every class, or a class at every position, of the shape of "
        "what the model returns in its one call; no tensor of the batch behaves as one."
    )


class _Look:
    """One batch, looked at."""

    def __init__(self, model: nn.Module, loss_of: Callable[[Any], Tensor], data: Any) -> None:
        self._held, self._loss_of, self._data = HeldOutputs(model), loss_of, data
        losses, self._before = self._held.gradients(loss_of, data, self._held.floating)
        self._outputs = self._held.floating(len(losses)) if self._before and self._held.calls == 1 else []
        self._values = [output.detach().clone() for output in self._outputs]

    def targets(self) -> Iterator[Target]:
        """Every leaf that behaves as a target."""
        for number, leaf in enumerate(tensor_leaves(self._data)):
            if leaf.is_nested or leaf.is_complex() or leaf.dim() == 0 or leaf.layout is not torch.strided:
                continue
            for target in self._possible(number, leaf):
                try:
                    found = self._tried(target, leaf)
                except Exception:  # a loss that refuses other values of this leaf, or of the output
                    found = None
                finally:
                    for output, values in zip(self._outputs, self._values, strict=True):
                        put(output, values)
                if found is not None:
                    yield found
                    break

    def _possible(self, number: int, leaf: Tensor) -> Iterator[Target]:
        name = leaf_name(self._data, number)
        whole = None if leaf.is_floating_point() and not bool(leaf.isfinite().all()) else whole_numbers(leaf)
        for place, output in enumerate(self._outputs):
            zero_or_one = whole is not None and between_0_and_1(leaf) and between_0_and_1(self._values[place])
            # 0 or 1 next to probabilities: classes, whatever the loss.
            if squeezed(leaf.shape) == squeezed(output.shape) and leaf.dtype is not torch.bool and not zero_or_one:
                yield Target("values", number, name, place)
            if squeezed(leaf.shape) == squeezed(output.shape) and whole is not None:
                yield Target("multi-label", number, name, place)
            if whole is None or leaf.dim() < 2 or output.dim() != leaf.dim() + 1:
                continue
            for classes, rest in ((-1, output.shape[:-1]), (1, output.shape[:1] + output.shape[2:])):
                if rest == leaf.shape:
                    yield Target("positions", number, name, place, classes)
                    yield Target("positions", number, name, place, classes, shift=1)
                if rest == (leaf.shape[0], leaf.shape[1] - 1, *leaf.shape[2:]):
                    yield Target("positions", number, name, place, classes, shift=1, cut=True)

    def _tried(self, target: Target, leaf: Tensor) -> Target | None:
        if target.kind == "values":
            return self._value(target, leaf)
        return self._multi_label(target, leaf) if target.kind == "multi-label" else self._positions(target)

    def _gradient(self, target: Target, data: Any = None) -> Tensor:
        data = self._data if data is None else data
        return self._held.gradients(self._loss_of, data, self._held.floating)[1][target.output]

    def _value(self, target: Target, leaf: Tensor) -> Target | None:
        output, before = self._outputs[target.output], self._before[target.output]
        if not bool(leaf.isfinite().all()):
            return None
        given, other = (part.double().reshape(output.shape) for part in (leaf, leaf.roll(1, 0)))
        against = (self._gradient(target, with_values(self._data, target.leaf, leaf.roll(1, 0))) - before) * (
            other - given
        )
        size = float(before.abs().max())
        if not (bool((against <= 1e-6 * size * (other - given).abs()).all()) and bool((against < 0).any())):
            return None
        # A loss of probabilities takes no others, and ends a GPU's work where it gets them.
        lowest, highest = (0.0, 1.0) if self._of_probabilities(target, leaf) else (-torch.inf, torch.inf)
        step = float(given.std()) or 1.0
        there, above, below = (
            self._gradient_at(target, (given + by).clamp(lowest, highest)) for by in (0.0, step, -step)
        )
        counted = (above != 0) | (below != 0)
        fits = (there.abs() <= 1e-4 * size) & ((above > 0) | (given == highest)) & ((below < 0) | (given == lowest))
        return target if counted.any() and bool(fits[counted].all()) else None

    def _gradient_at(self, target: Target, values: Tensor) -> Tensor:
        put(self._outputs[target.output], values)
        return self._gradient(target)

    def _of_probabilities(self, target: Target, leaf: Tensor) -> bool:
        """Whether leaf and output may both be probabilities."""
        return between_0_and_1(leaf) and between_0_and_1(self._values[target.output])

    def _multi_label(self, target: Target, leaf: Tensor) -> Target | None:
        output, values = self._outputs[target.output], self._values[target.output]
        given = leaf.double().reshape(output.shape)
        known = (given == 0) | (given == 1)
        if not bool(known.any()):
            return None
        flipped = torch.where((leaf == 0) | (leaf == 1), 1 - leaf.long(), leaf.long()).to(leaf.dtype)
        change = self._gradient(target, with_values(self._data, target.leaf, flipped)) - self._before[target.output]
        sign = 1 - 2 * given
        if not (bool((change * sign)[known].le(0).all()) and bool((change * sign)[known].lt(0).any())):
            return None
        if between_0_and_1(values) and self._logarithmic(target, output, given, known):
            target = Target(target.kind, target.leaf, target.name, target.output, probabilities=True)
        for sure in (0.9, 0.1) if target.probabilities else (SURE, -SURE):
            put(output, sure)
            gradient = self._gradient(target)
            if not bool((gradient * sign)[known].ge(0).all()):
                return None
        put(output, undecided(target, output))
        counted = self._gradient(target) != 0
        return target if bool(counted.any()) and bool(known[counted].all()) else None

    def _logarithmic(self, target: Target, output: Tensor, given: Tensor, known: Tensor) -> bool:
        """Whether an output between 0 and 1 is a probability: the loss is its logarithm, or a square."""
        put(output, (given - SMALL).abs().where(known, torch.full_like(given, 0.5)))
        near = self._gradient(target).abs()
        put(output, (1 - given - SMALL).abs().where(known, torch.full_like(given, 0.5)))
        far = self._gradient(target).abs()
        put(output, 0.5)
        middle = self._gradient(target).abs()
        counted = known & (middle > 0)
        if not counted.any():
            return False
        ratio = (far[counted] / middle[counted]).median()
        square = (near[counted] <= 0.01 * middle[counted]).all()
        return bool(ratio > LARGE_RATIO) or bool(square)

    def _positions(self, target: Target) -> Target | None:
        output, leaf = self._outputs[target.output], tensor_leaves(self._data)[target.leaf]
        put(output, 0.0)
        before = target.answers(self._gradient(target))
        after = target.answers(self._gradient(target, with_values(self._data, target.leaf, leaf.roll(1, 0))))
        given = leaf.long()[:, target.shift :]
        other = leaf.roll(1, 0).long()[:, target.shift :]
        classes = before.shape[-1]
        differ = (given != other) & (given >= 0) & (given < classes) & (other >= 0) & (other < classes)
        differ &= (before != 0).any(-1) & (after != 0).any(-1)
        if not differ.any():
            return None
        change = (after - before)[differ]
        rise = change.gather(1, given[differ][:, None])[:, 0]
        fall = -change.gather(1, other[differ][:, None])[:, 0]
        return target if bool((torch.stack([rise, fall]) > 0).all()) else None
