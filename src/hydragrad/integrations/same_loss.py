"""The loss that a framework descends must be a reduction of the recorded losses: which one, and that it is.

A framework computes a mean itself. Here the same mean is made of the recorded per-sample losses, so that each has a
coefficient; both are compared at steps 0, 1, 2, 4, 8, ..., by a forward pass on a copy of the model.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from hydragrad.errors import StepError

FULL, HALF = 1e-4, 2e-2
"""Relative differences that rounding makes, in full precision and where the model runs in bfloat16."""


class SameLoss:
    """Chooses how the recorded losses are reduced.

    Args:
        framework: Whose loss it is, for messages.
    """

    def __init__(self, framework: str) -> None:
        self._framework = framework
        self._name: str | None = None
        self._next = 0

    def due(self, step: int) -> bool:
        """Whether the losses are to be compared at a step."""
        return self._name is None or step >= self._next

    def reduce(self, step: int, candidates: Mapping[str, Tensor], own: Tensor | None, *, half: bool = False) -> Tensor:
        """The reduction that equals the framework's loss.

        Args:
            step: Counted from 0.
            candidates: Reductions of the recorded losses, by name; the likelier ones first.
            own: The framework's own loss, of the same batch and random numbers, where they are compared.
            half: Whether the model runs in half precision.

        Raises:
            StepError: None of them equals it.
        """
        if own is not None:
            self._next = max(1, 2 * step)
            self._name = self._the_same(step, candidates, float(own.detach()), HALF if half else FULL)
        assert self._name is not None
        return candidates[self._name]

    def _the_same(self, step: int, candidates: Mapping[str, Tensor], own: float, tolerance: float) -> str:
        values = {name: float(value.detach()) for name, value in candidates.items()}
        tried = {name: value for name, value in values.items() if self._name in (None, name)}
        for name, value in tried.items():
            if abs(value - own) <= tolerance * max(abs(own), tolerance):
                return name
        listed = ", ".join(f"{name} {value:.6g}" for name, value in tried.items())
        raise StepError(
            f"{self._framework} must descend a mean or a sum of the recorded losses; at step {step} its own loss was "
            f"{own:.6g}, and of the recorded ones: {listed}. It adds something (an auxiliary loss, label smoothing, a "
            f"compute_loss of its own). Give record(..., loss=...) a per-sample loss that contains it."
        )


def reductions(
    losses: Tensor, *, tokens: int | None = None, items: Tensor | int | None = None, processes: int = 1
) -> dict[str, Tensor]:
    """What a framework makes of losses (batch,): their mean, or their sum over numbers of tokens.

    Args:
        losses: Per-sample losses.
        tokens: Tokens of this batch.
        items: Tokens, or samples, of the whole accumulated batch.
        processes: How many train together: frameworks multiply by it what is divided by numbers of all of them, since
            gradients are averaged afterwards.
    """
    made: dict[str, Tensor] = {}
    if items is not None:
        made["their sum over the accumulated batch's labels"] = losses.sum() / torch.as_tensor(items).to(losses.device)
    if tokens:
        made["their sum over the batch's labels"] = losses.sum() / tokens
    made |= {"their mean": losses.mean(), "their sum": losses.sum()}
    if processes == 1:
        return made
    return {f"{processes} times {name}": processes * value for name, value in made.items()} | made
