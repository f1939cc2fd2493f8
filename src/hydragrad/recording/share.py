"""The share of the model in an update of its average, read off the numbers before and after.

An average that became (1 - c) of itself and c of the model moved along one direction, model - average, and by c of it
in every coordinate. The least-squares c, weighted by what rounding does to each coordinate, has a standard error; among
the numbers that it leaves open, the simplest is taken: the share before, few decimals, one over a whole number.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDINGS = 8
"""Of a coordinate, which an update may make."""

ERRORS = 4
"""Standard errors that the share may be off by."""


class Share(NamedTuple):
    """Share of the model in an update, and its standard error."""

    value: float
    error: float


def share_of(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], model: Mapping[str, Tensor], previous: Sequence[float]
) -> Share | None:
    """The share of the model that takes one state of an average to the next; None if none does.

    Args:
        before, after: The average.
        model: The model's values of the same names.
        previous: Shares that would not surprise.
    """
    if all(torch.equal(value, model[name].to(value)) for name, value in after.items()):
        return Share(1.0, 0.0)
    along = across = 0.0
    for old, new, target in _in_double(before, after, model):
        rounding = _rounding(old, target, after)
        direction, moved = (target - old) / rounding, (new - old) / rounding
        along += float((direction * moved).sum())
        across += float(direction.square().sum())
    read = Share(along / across, 1 / math.sqrt(across)) if across > 0 else Share(1.0, 0.0)
    within = ERRORS * read.error + 1e-15
    likely = (value for value in _simple(read.value, previous) if abs(value - read.value) <= within)
    for value in (*likely, read.value):
        if _explains(value, before, after, model):
            return Share(value, read.error)
    return None


def _explains(
    share: float, before: Mapping[str, Tensor], after: Mapping[str, Tensor], model: Mapping[str, Tensor]
) -> bool:
    """Whether a share leaves no more than rounding of the change, in every coordinate."""
    for old, new, target in _in_double(before, after, model):
        left = (new - torch.lerp(old, target, share)).abs()
        if bool((left > ROUNDINGS * _rounding(old, target, after)).any()):
            return False
    return True


def _in_double(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], model: Mapping[str, Tensor]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for name, value in after.items():
        yield before[name].double(), value.double(), model[name].to(value.device).double()


def _rounding(old: Tensor, target: Tensor, after: Mapping[str, Tensor]) -> Tensor:
    """Size of one rounding of each coordinate."""
    kind = max((torch.finfo(value.dtype) for value in after.values()), key=lambda info: info.eps)
    return kind.eps * torch.maximum(old.abs(), target.abs()) + kind.tiny


def _simple(read: float, previous: Sequence[float]) -> Iterator[float]:
    yield from previous
    yield from _short(read, range(1, 5))
    if abs(read) > 1e-12:
        yield 1 / max(1, round(1 / read))
    yield from _short(read, range(5, 8))


def _short(read: float, decimals: range) -> Iterator[float]:
    """What stays of the average, in few decimals: a decay of 0.999 is a share of 0.001."""
    shares = (1 - round(1 - read, places) for places in decimals)
    yield from (share for share in shares if share)
