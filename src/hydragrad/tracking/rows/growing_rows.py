"""A store while it grows: table, recurrence and which sample has which row."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydragrad.runs import StepRecord
from hydragrad.tracking.rows.recurrence import Recurrence, TakenAt
from hydragrad.tracking.rows.table import Table


class GrowingRows:
    """Rows of tracked samples, advanced step by step.

    Args:
        table: Where they lie.
        recurrence: How they advance.
        sample_ids: The training sample of each row, int64, (rows,).
        length: Samples of the training set.
        statistics: Columns of running statistics at the end of a row.
    """

    def __init__(
        self, table: Table, recurrence: Recurrence, sample_ids: Tensor, length: int, *, statistics: int = 0
    ) -> None:
        self.table, self.recurrence = table, recurrence
        self._statistics = statistics
        self._row = np.full(length, -1, dtype=np.int64)
        self._row[sample_ids.numpy()] = np.arange(len(sample_ids))

    def positions(self, indices: Sequence[int]) -> list[int]:
        """Places in the batch that hold tracked samples."""
        places: list[int] = np.nonzero(self._row[np.asarray(indices)] >= 0)[0].tolist()
        return places

    def distinct(self, indices: Sequence[int]) -> int:
        """How many tracked samples are among them, each counted once."""
        rows = np.unique(self._row[np.asarray(indices)])
        return int((rows >= 0).sum())

    def add(
        self, record: StepRecord, gradients: Tensor, state: Mapping[str, Tensor], at: TakenAt | None = None
    ) -> None:
        """Complete a step.

        Args:
            record: What it did.
            gradients: Gradients of the step's tracked samples times their coefficients, in the order of `positions`,
                (samples, columns).
            state: The model's state after it.
            at: Where the step was taken, for recurrences that move every row.
        """
        sampled = self._row[np.asarray(record.indices)]
        if self.recurrence.every_row:
            rows = gradients.new_zeros(len(self.table.touched), gradients.shape[1])
            rows.index_add_(0, torch.from_numpy(sampled[sampled >= 0]).to(gradients.device), gradients)
            self.add_to_all(record, rows, rows.new_zeros(len(rows), 0), state, at)
            return
        self._take(record)
        ids, place = np.unique(sampled[sampled >= 0], return_inverse=True)
        if len(ids) < len(place):  # a sample that is in the batch twice
            once = gradients.new_zeros(len(ids), gradients.shape[1])
            gradients = once.index_add_(0, torch.from_numpy(place).to(gradients.device), gradients)
        elif len(ids):
            gradients = gradients[torch.from_numpy(np.argsort(place)).to(gradients.device)]
        values = self.table.read(ids)
        self.table.change(ids, self.recurrence.add(values, self.table.touched[ids], gradients.to(values)), state)

    def add_to_all(
        self,
        record: StepRecord,
        gradients: Tensor,
        statistics: Tensor,
        state: Mapping[str, Tensor],
        at: TakenAt | None = None,
    ) -> None:
        """Complete a step that moves every row, by tangents (rows, parameters) of the gradient, (rows, statistics)."""
        self._take(record, at)
        ids = np.arange(len(self.table.touched))
        values = self.table.read(ids)
        after = self._advanced(values, self.table.touched[ids], gradients.to(values))
        if self._statistics:
            after[0, :, -self._statistics :] = statistics.to(values)
        self.table.change(ids, after, state)

    def _advanced(self, values: Tensor, touched: NDArray[np.int64], gradients: Tensor) -> Tensor:
        if not (self._statistics and self.recurrence.every_row):
            return self.recurrence.add(values, touched, gradients)
        # Only the columns of parameters go through the optimizer's step; those of statistics are set by the caller.
        after = torch.zeros_like(values)
        parameters = values.shape[2] - self._statistics
        after[..., :parameters] = self.recurrence.add(values[..., :parameters], touched, gradients)
        return after

    def _take(self, record: StepRecord, at: TakenAt | None = None) -> None:
        self.recurrence.take(record, at)
        while self.recurrence.accumulators > self.table.accumulators:
            self.table.add_state()

    def pass_over(self, record: StepRecord) -> None:
        """Take in a step that the table already holds."""
        self.recurrence.take(record)

    def caught_up(self, ids: NDArray[np.int64]) -> Tensor:
        """Rows as they are after the last complete step, (rows, columns)."""
        return self.recurrence.catch_up(self.table.read(ids), self.table.touched[ids])

    def settle(self) -> None:
        """Bring every row up to the last complete step, in place."""
        rows = np.arange(len(self.table.touched))
        for start in range(0, len(rows), self.table.room):
            ids = rows[start : start + self.table.room]
            self.table.settle(ids, self.caught_up(ids))
