"""The graph of a loss, as torch's reverse mode has it.

What was measured at a step holds for other steps whose losses came about by the same operations. So what is too costly
for every step is measured at the first step of every kind of graph, and at random ones.
"""

import zlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor

Kind = tuple[Any, ...]

BY_DIMENSION = frozenset(
    [
        "SumBackward1",
        "MeanBackward1",
        "SoftmaxBackward0",
        "LogSoftmaxBackward0",
        "LogsumexpBackward0",
        "MaxBackward0",
        "MinBackward0",
        "AmaxBackward0",
        "AminBackward0",
        "VarBackward0",
        "StdBackward0",
        "LinalgVectorNormBackward0",
        "CatBackward0",
        "SelectBackward0",
        "SliceBackward0",
        "UnsqueezeBackward0",
        "SqueezeBackward1",
        "GatherBackward0",
    ]
)
"""Nodes that work along dimensions of their own."""

MEASURED_SHARE = 1 / 64
"""Share of the steps that are measured where their kind was measured before."""


def nodes(output: Tensor) -> Iterator[Any]:
    """Yield every node behind `output` once, in an order that depends on the graph alone."""
    seen: set[Any] = set()
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting += [before for before, _ in node.next_functions]


def kind_of_graph(output: Tensor) -> Kind:
    """The operations behind `output`, with the dimensions that some work along: equal for equal graphs."""
    return tuple(_entry(node) for node in nodes(output))


class KindWatch:
    """Decides at which steps something is measured: the first of every kind of graph, and random ones.

    Args:
        share: Of the random ones.
    """

    def __init__(self, share: float = MEASURED_SHARE) -> None:
        self._share = share
        self._seen: set[Kind] = set()

    def wants(self, step: int, kind: Kind) -> bool:
        """Whether to measure at a step with this kind of graph."""
        new = kind not in self._seen
        self._seen.add(kind)
        return new or self.draws(step)

    def draws(self, step: int) -> bool:
        """Whether a step is one of the random ones."""
        return zlib.crc32(f"step {step}".encode()) < self._share * 2**32


def _entry(node: Any) -> Any:
    name = node.name()
    return (name, str(getattr(node, "_saved_dim", None))) if name in BY_DIMENSION else name
