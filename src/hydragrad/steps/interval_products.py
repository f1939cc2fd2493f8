"""Lazy recurrences: the steps that a sample sat out, as one product of small matrices.

Without curvature one step of a rule with a closed form maps the tangents (w_dot, states) of weights and state tensors
by a small matrix, the same for every sample and coordinate of a history, and adds the sample's own gradient times as
many numbers. A sample that was last sampled at step s and is sampled again at t needs the product of the matrices
s..t-1 only.

Products over intervals are carried, never inverted prefixes: the determinant of SGD's matrix is the momentum, so a
prefix product underflows within a few hundred steps (0.9^782 is about 1e-36).

Source: Chen et al. 2021, eqs. 35-36, as a linear recurrence.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class IntervalProducts:
    """Products of step matrices over any interval that ends at the last step.

    A binary tree of aligned blocks: appending a step costs amortised one product, an interval of n steps at most
    2 log2(n). All histories, and any number of intervals, are taken at once.

    Args:
        histories: How many histories.
        size: Rows and columns of a matrix.
    """

    def __init__(self, histories: int, size: int = 2) -> None:
        self._shape = (histories, size, size)
        self._levels: list[Array] = [np.empty((64, *self._shape))]
        self.steps = 0

    def append(self, matrices: Array) -> None:
        """Add the next step's matrices, (histories, size, size)."""
        block, place, level = matrices, self.steps, 0
        while True:
            self._put(level, place, block)
            if place % 2 == 0:
                break
            block = block @ self._levels[level][place - 1]
            place, level = place // 2, level + 1
        self.steps += 1

    def since(self, starts: Sequence[int] | NDArray[np.int64]) -> Array:
        """Products of the steps start..last, the latest leftmost, (len(starts), histories, size, size)."""
        at = np.array(starts, dtype=np.int64)
        result = np.broadcast_to(np.eye(self._shape[-1]), (len(at), *self._shape)).copy()
        # Up: blocks that begin where the interval stands and fit into it; down: what is left, largest block first.
        up = range(len(self._levels))
        for level in up:
            self._take(result, at, level, (at >> level) & 1 == 1)
        for level in reversed(up):
            self._take(result, at, level, np.ones(len(at), dtype=bool))
        return result

    def split(self, parents: Sequence[int]) -> "IntervalProducts":
        """The same steps for more histories: number i continues `parents[i]`."""
        other = IntervalProducts(len(parents), self._shape[-1])
        other._levels = [level[:, list(parents)] for level in self._levels]
        other.steps = self.steps
        return other

    def _take(self, result: Array, at: NDArray[np.int64], level: int, wanted: NDArray[np.bool_]) -> None:
        fits = wanted & (at + (1 << level) <= self.steps)
        # Going down, a level can be needed only once: after that the rest is shorter than the block.
        chosen = np.nonzero(fits)[0]
        if len(chosen):
            result[chosen] = self._levels[level][at[chosen] >> level] @ result[chosen]
            at[chosen] += 1 << level

    def _put(self, level: int, place: int, block: Array) -> None:
        if level == len(self._levels):
            self._levels.append(np.empty((64, *self._shape)))
        if place == len(self._levels[level]):
            room = np.empty_like(self._levels[level])
            self._levels[level] = np.concatenate([self._levels[level], room])
        self._levels[level][place] = block
