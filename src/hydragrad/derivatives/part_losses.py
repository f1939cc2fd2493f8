"""Per-sample losses made of the losses of parts: tokens of a sequence, pixels, boxes, answers.

A loss of parts is called as any other and returns one number a sample. Which parts it was made of goes along with the
tensor that it returns, so that whoever evaluates it as training did can ask afterwards. Its terms, what every part adds
to its sample's loss, are a loss of one number a part: everything that differentiates per-sample losses takes them.
"""

import abc
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from hydragrad.derivatives.loss_module import Batch, PerSampleLoss
from hydragrad.errors import LossError

Reduce = Literal["mean", "sum"]

PartLosses = Callable[[Any, Any], Tensor | tuple[Tensor, Tensor]]
"""`part_losses(model, batch)` returns one number a part, (batch, parts), and, where some are none, which are parts."""

TERMS = "hydragrad_terms"
"""Attribute of a tensor of per-sample losses: the terms that it was made of."""


class Terms(NamedTuple):
    """What the parts of a batch's samples add to the losses of the samples.

    Attributes:
        part_losses: (batch, parts); 0 where there is no part.
        is_part: bool (batch, parts).
        divisors: What each sample's sum is divided by, (batch, 1); None where that is 1.
    """

    part_losses: Tensor
    is_part: Tensor
    divisors: Tensor | None

    @property
    def values(self) -> Tensor:
        """What every part adds to its sample's loss, (batch, parts)."""
        return self.part_losses if self.divisors is None else self.part_losses / self.divisors

    @property
    def losses(self) -> Tensor:
        """The losses of the samples, (batch,)."""
        total = self.part_losses.sum(1)
        return total if self.divisors is None else total / self.divisors[:, 0]

    def batch(self, of: Batch) -> Batch:
        """The batch of samples as one of parts: the same data, one number a part."""
        return of._replace(size=self.is_part.numel())

    def spread(self, by_sample: Tensor | None) -> Tensor | None:
        """Numbers of samples, (batch,), as numbers of their parts, (batch * parts,)."""
        return None if by_sample is None else by_sample.repeat_interleave(self.is_part.shape[1])

    def detached(self) -> "Terms":
        """The same without a graph."""
        return self._replace(part_losses=self.part_losses.detach())


class LossOfParts(abc.ABC):
    """A per-sample loss `loss(model, batch)` that knows the terms it is made of."""

    def __call__(self, model: Any, batch: Any) -> Tensor:
        """One loss a sample, (batch,)."""
        terms = self.terms(model, batch)
        losses = terms.losses
        setattr(losses, TERMS, terms.detached())
        return losses

    @abc.abstractmethod
    def terms(self, model: Any, batch: Any) -> Terms:
        """What the losses of the samples are made of.

        Raises:
            LossError: Not one number a part, or a mask that does not fit them.
        """


class _Reduced(LossOfParts):
    """The sum or the mean of what a function returns."""

    def __init__(self, part_losses: PartLosses, reduce: Reduce) -> None:
        self._part_losses, self._reduce = part_losses, reduce

    def terms(self, model: Any, batch: Any) -> Terms:
        every, is_part = _checked(self._part_losses(model, batch))
        divisors = is_part.sum(1, keepdim=True).clamp(min=1) if self._reduce == "mean" else None
        return Terms(every.masked_fill(~is_part, 0.0), is_part, divisors)


def loss_of_parts(part_losses: PartLosses, *, reduce: Reduce = "mean") -> LossOfParts:
    """Make a per-sample loss of the losses of parts: of tokens, pixels, boxes, answers.

    What it returns is used wherever a per-sample loss is, and lets `hg.attribute(..., parts=True)` say what every part
    contributed.

    Args:
        part_losses: `part_losses(model, batch)` returns a floating-point tensor of shape (batch, parts); or that and
            a bool tensor of the same shape, which is False where there is no part (padding, a prompt). It calls the
            model once.
        reduce: "mean" averages a sample's loss over its own parts, "sum" adds them up. A sample without parts has the
            loss 0.

    Returns:
        `loss(model, batch)`, which returns one number a sample, (batch,).

    Raises:
        LossError: Another `reduce`; when the loss is evaluated, a result that is not one number a part.
    """
    if reduce not in get_args(Reduce):
        raise LossError(f"reduce must be one of {', '.join(get_args(Reduce))}, got {reduce!r}.")
    return _Reduced(part_losses, reduce)


def require_parts(loss: PerSampleLoss) -> LossOfParts:
    """The loss, if its samples have parts.

    Raises:
        LossError: It is made of no parts that are known.
    """
    if not isinstance(loss, LossOfParts):
        raise LossError(
            f"parts=True needs a loss made by hg.loss_of_parts, which says what each part of a sample adds to its "
            f"loss; the run's is a {type(loss).__name__}. Write a function that returns losses of shape "
            f"(batch, parts), and open the run with hg.loss_of_parts(that function)."
        )
    return loss


def one_number_a_part(loss: LossOfParts) -> PerSampleLoss:
    """The terms of a loss as a loss of their own: it takes batches as `Terms.batch` makes them, (batch * parts,)."""
    return partial(_flat_terms, loss)


def terms_of(losses: Tensor) -> Terms:
    """The terms that per-sample losses were made of, as the loss returned them."""
    terms: Terms = getattr(losses, TERMS)
    return terms


def _flat_terms(loss: LossOfParts, model: Any, batch: Any) -> Tensor:
    return loss.terms(model, batch).values.flatten()


def _checked(result: Any) -> tuple[Tensor, Tensor]:
    every, is_part = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(every, Tensor) or every.dim() != 2 or not every.shape[1] or not every.is_floating_point():
        raise LossError(
            f"The function given to hg.loss_of_parts must return one number a part, a floating-point tensor of shape "
            f"(batch, parts); it returned {_described(every)}. Flatten everything but the batch dimension."
        )
    if is_part is None:
        return every, torch.ones_like(every, dtype=torch.bool)
    if not isinstance(is_part, Tensor) or is_part.shape != every.shape or is_part.dtype != torch.bool:
        raise LossError(
            f"What is a part must be a bool tensor of the shape of the losses, {tuple(every.shape)}; it is "
            f"{_described(is_part)}."
        )
    return every, is_part


def _described(value: Any) -> str:
    return f"a {value.dtype} tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
