"""Which buffers each micro-batch of a step begins with: those that another one left, or those before the step.

In one process every micro-batch begins with what the one before it left. Where several processes train together each
has its own, begins a step with those of rank 0, and those of rank 0 remain.
"""

from typing import Generic, TypeVar

import torch
from torch import Tensor

from hydragrad.runs.log import StepRecord

Value = TypeVar("Value")


class BufferFlow(Generic[Value]):
    """Hands buffers, or their tangents, from micro-batch to micro-batch.

    Args:
        record: The step.
        before: The value before it.
    """

    def __init__(self, record: StepRecord, before: Value) -> None:
        self._sources, self._last = record.sources, record.last_source
        self._values: dict[int, Value] = {-1: before}

    def before(self, number: int) -> Value:
        """What a micro-batch begins with."""
        return self._values[self._sources[number]]

    def after(self, number: int, value: Value) -> None:
        """Note what it left."""
        self._values[number] = value

    @property
    def end(self) -> Value:
        """What the step left."""
        return self._values[self._last]


class ReverseFlow:
    """Hands cotangents of running statistics back from micro-batch to micro-batch, the last one first.

    Args:
        record: The step.
        after: The cotangent of what the step left.
    """

    def __init__(self, record: StepRecord, after: Tensor) -> None:
        self._sources, self._like = record.sources, after
        self._values: dict[int, Tensor] = {record.last_source: after}

    def after(self, number: int) -> Tensor:
        """The cotangent of what a micro-batch left; 0 where nobody read it."""
        return self._read(number)

    def before(self, number: int, value: Tensor) -> None:
        """Note the cotangent of what it began with."""
        source = self._sources[number]
        self._values[source] = self._values[source] + value if source in self._values else value

    @property
    def start(self) -> Tensor:
        """The cotangent of what was there before the step."""
        return self._read(-1)

    def _read(self, number: int) -> Tensor:
        value = self._values.get(number)
        return torch.zeros_like(self._like) if value is None else value
