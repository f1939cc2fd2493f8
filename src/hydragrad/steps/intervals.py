"""Lazy recurrences: the steps that a sample sat out, as one 2x2 product.

Without curvature one step maps the tangents (w_dot, b_dot) of weights and momentum buffer by a 2x2 matrix, the
same for every sample and coordinate of a lane, and adds the sample's own gradient times two numbers. A sample that
was last drawn at step s and is drawn again at t needs the product of the matrices s..t-1 only.

Products over intervals are carried, never inverted prefixes: the determinant of one matrix is the momentum, so a
prefix product underflows within a few hundred steps (0.9^782 is about 1e-36).

Source: Chen et al. 2021, eqs. 35-36, as a linear recurrence.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hydragrad.steps.sgd import SGDOptions, SGDTangent, tangent_step

Array = NDArray[np.float64]
IDENTITY = np.eye(2)


def step_map(options: SGDOptions | None, *, first: bool) -> tuple[Array, Array]:
    """One step as (w_dot, b_dot) -> matrix @ (w_dot, b_dot) + injection * gradient.

    Args:
        options: The options in force; None where the parameters were skipped.
        first: True where this step created the momentum buffer.

    Returns:
        Matrix (2, 2) and injection (2,), float64.
    """
    if options is None:
        return IDENTITY.copy(), np.zeros(2)
    columns = []
    for w_dot, b_dot, g_dot in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
        # A buffer that does not exist yet carries no tangent.
        state = tangent_step(SGDTangent(w_dot, None if first else b_dot), g_dot, options)
        columns.append((state.w_dot, 0.0 if state.b_dot is None else state.b_dot))
    table = np.array(columns).T
    return table[:, :2], table[:, 2]


class IntervalProducts:
    """Products of step matrices over any interval that ends at the last step.

    A binary tree of aligned blocks: appending a step costs amortised one product, an interval of n steps at most
    2 log2(n). All lanes, and any number of intervals, are taken at once.

    Args:
        lanes: How many lanes.
    """

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._levels: list[Array] = [np.empty((64, lanes, 2, 2))]
        self.steps = 0

    def append(self, matrices: Array) -> None:
        """Add the next step's matrices, (lanes, 2, 2)."""
        block, place, level = matrices, self.steps, 0
        while True:
            self._put(level, place, block)
            if place % 2 == 0:
                break
            block = block @ self._levels[level][place - 1]
            place, level = place // 2, level + 1
        self.steps += 1

    def since(self, starts: Sequence[int] | NDArray[np.int64]) -> Array:
        """Products of the steps start..last, the latest leftmost, (len(starts), lanes, 2, 2)."""
        at = np.array(starts, dtype=np.int64)
        result = np.broadcast_to(IDENTITY, (len(at), self._lanes, 2, 2)).copy()
        # Up: blocks that begin where the interval stands and fit into it; down: what is left, largest block first.
        up = range(len(self._levels))
        for level in up:
            self._take(result, at, level, (at >> level) & 1 == 1)
        for level in reversed(up):
            self._take(result, at, level, np.ones(len(at), dtype=bool))
        return result

    def split(self, parents: Sequence[int]) -> "IntervalProducts":
        """The same history for more lanes: lane number i continues `parents[i]`."""
        other = IntervalProducts(len(parents))
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
            self._levels.append(np.empty((64, self._lanes, 2, 2)))
        if place == len(self._levels[level]):
            room = np.empty_like(self._levels[level])
            self._levels[level] = np.concatenate([self._levels[level], room])
        self._levels[level][place] = block
