"""Gradients of queries at all checkpoints, next to each other: their product with rows is a sum over checkpoints."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from hydragrad.scores import Query
from hydragrad.tracking.query_gradients import QueryChunk, QueryDifferentiator


class _Row(NamedTuple):
    name: str
    value: float
    gradient: Tensor


class AtEveryCheckpoint:
    """Differentiates queries at several models of one layout.

    Args:
        parts: What differentiates them at each checkpoint; the last is the trained model, whose values count.

    Attributes:
        projector: Projects gradients as the rows of the last checkpoint, or None.
        width: Columns of a gradient, before projection, of all checkpoints.
        precision: Type of the gradients.
    """

    def __init__(self, parts: Sequence[QueryDifferentiator]) -> None:
        self._parts = parts
        self.projector, self.precision = parts[-1].projector, parts[-1].precision
        self.width = sum(part.width for part in parts)

    def chunks(self, queries: Sequence[Query], memory: int) -> Iterator[QueryChunk]:
        """Differentiate queries, in chunks whose gradients fit into a quarter of `memory` bytes."""
        item = torch.empty((), dtype=self.precision).element_size()
        size = max(1, memory // (8 * self.width * item))
        each = [_rows(part, queries, memory // (2 * len(self._parts))) for part in self._parts]
        together = zip(*each, strict=True)
        while some := list(islice(together, size)):
            yield QueryChunk(
                [row[-1].name for row in some],
                [row[-1].value for row in some],
                torch.stack([torch.cat([one.gradient for one in row]) for row in some]),
            )


def _rows(part: QueryDifferentiator, queries: Sequence[Query], memory: int) -> Iterator[_Row]:
    for chunk in part.chunks(queries, memory):
        for name, value, gradient in zip(chunk.names, chunk.values, chunk.gradients, strict=True):
            yield _Row(name, value, gradient)
