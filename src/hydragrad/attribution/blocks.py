"""Blocks of segments: the jobs of an attribution without curvature.

A block's sums start from zero, and blocks are added in the order of the run, so that the result is the same to the bit
wherever each of them was summed.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hydragrad.attribution.gradients import QueryGradients
from hydragrad.attribution.plan import Plan
from hydragrad.attribution.routes import Comparisons, Measuring, Route, measuring
from hydragrad.attribution.tally import Tally
from hydragrad.replay import Replay
from hydragrad.replay.on_run import OnRun
from hydragrad.replay.resumable import Segment, check_end
from hydragrad.runs import StepRecord
from hydragrad.steps import coefficients

MOST = 256
"""Blocks, at most: each is a file of its own, where several processes work on them."""


class Block(NamedTuple):
    """Segments that are summed together, in the order in which they are taken."""

    segments: tuple[Segment, ...]

    @property
    def span(self) -> Segment:
        """Its first step, and as many steps further as it has."""
        first = self.segments[0][0]
        return first, first + sum(stop - start for start, stop in self.segments)


def blocks_of(segments: Sequence[Segment]) -> list[Block]:
    """Group segments, in their order: each by itself, unless there are too many."""
    size = -(-len(segments) // MOST) or 1
    return [Block(tuple(segments[at : at + size])) for at in range(0, len(segments), size)]


class BlockSums(OnRun):
    """Replays a block and sums its terms.

    Args:
        plan: Which run and method.
        gradients: Of the queries at the final model.
        route: How derivatives are taken.
    """

    def __init__(self, plan: Plan, gradients: QueryGradients, route: Route) -> None:
        super().__init__(plan.run)
        self._plan, self._gradients, self._route = plan, gradients, route
        self._kappa = np.stack([coefficients(history, plan.run.ends.weights) for history in plan.histories])

    def __call__(self, block: Block) -> dict[str, Tensor]:
        """The sums of the block's samples, their `columns`, what was `compared`, the `drift`, whether it is `exact`."""
        compared = Comparisons.fresh()
        with self.run.replay() as replay:
            *_, tally = self.steps(block, replay, compared)
            columns = tally.columns(self._records(block))
            return tally.sums_of(columns) | {
                "columns": columns,
                "compared": compared.packed(),
                "drift": torch.tensor(replay.drift, dtype=torch.float64),
                "exact": torch.tensor(self.run.exact),
            }

    def steps(self, block: Block, replay: Replay, compared: Comparisons) -> Generator[Tally, None, None]:
        """The block's tally after every step."""
        run, plan = self.run, replace(self._plan, run=self.run)
        tally = Tally(plan, len(self._gradients.names))
        for start, stop in block.segments:
            what = Measuring(plan, self._gradients.w_bar, replay, tally, self._kappa, compared)
            with measuring(self._route, what) as one_step:
                replay.trajectory.restore(run.checkpoint(start))
                for record in run.steps[start:stop]:
                    one_step(record, run.batches(record))
                    yield tally
            check_end(run, replay, stop)

    def added(self, block: Block, to: Tally, tally: Tally) -> Tally:
        """A tally with the block's own added."""
        total, columns = to.copy(), tally.columns(self._records(block))
        total.add_sums(columns, tally.sums_of(columns))
        return total

    def _records(self, block: Block) -> Iterator[StepRecord]:
        return (record for start, stop in block.segments for record in self.run.steps[start:stop])
