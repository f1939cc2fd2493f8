"""What an attribution has summed, and how exactly."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from hydragrad.attribution.tally import Tally

Tensors = dict[str, Tensor]


class Summed(NamedTuple):
    """Summed derivatives of some scalars.

    Attributes:
        tally: The sums.
        drift: The largest of the replays.
        exact: Whether every replay was on a machine that repeats the run to the bit.
    """

    tally: Tally
    drift: float
    exact: bool


def packed(summed: Summed) -> Tensors:
    """As tensors by name, to be saved or sent."""
    numbers = {"drift": torch.tensor(summed.drift, dtype=torch.float64), "exact": torch.tensor(summed.exact)}
    return summed.tally.sums() | numbers


def unpacked(tensors: Mapping[str, Tensor], like: Tally) -> Summed:
    """What `packed` was given; the tally is of the plan of another one."""
    return Summed(like.of(tensors), tensors["drift"].item(), bool(tensors["exact"]))
