"""The graph of a loss, as torch's reverse mode has it."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor


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
