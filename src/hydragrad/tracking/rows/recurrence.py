"""How a row takes in a gradient: two ways, one result.

`Lazy` needs nothing but the steps so far, so any schedule will do: it keeps (w_dot, b_dot) of every sample as they
were when the sample was last drawn, and catches up by one 2x2 product. `Planned` knows every coefficient kappa_t,
because the run is recorded or its schedule was told ahead: one accumulator, no catching up.
"""

import abc
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydragrad.runs import StepRecord
from hydragrad.steps import Lane, coefficients
from hydragrad.tracking.rows.columns import Columns
from hydragrad.tracking.rows.histories import GrowingLanes


class Recurrence(abc.ABC):
    """Advances rows by what a step did."""

    accumulators: int

    @abc.abstractmethod
    def take(self, record: StepRecord) -> None:
        """Take in what the next step did."""

    @abc.abstractmethod
    def add(self, values: Tensor, touched: NDArray[np.int64], gradients: Tensor) -> Tensor:
        """Bring rows up to the step just taken in, their gradients of that step included.

        Args:
            values: The rows' accumulators, (accumulators, rows, columns).
            touched: How many steps each row takes into account, (rows,).
            gradients: The samples' gradients divided by the batch size, (rows, columns).
        """

    @abc.abstractmethod
    def catch_up(self, values: Tensor, touched: NDArray[np.int64]) -> Tensor:
        """Bring rows up to the last step taken in; returns the tangents of the weights, (rows, columns)."""


class Lazy(Recurrence):
    """Any schedule: two accumulators a row (one where there is no momentum).

    Args:
        columns: The columns of a row.
        lanes: Histories as they unfold.
        momentum: Whether any parameter has momentum at the start.

    Attributes:
        accumulators: 2 from the first step with momentum on.
    """

    def __init__(self, columns: Columns, lanes: GrowingLanes, *, momentum: bool) -> None:
        self.accumulators = 2 if momentum else 1
        self._columns, self._lanes = columns, lanes
        self._spans = columns.spans(lanes.groups)

    def take(self, record: StepRecord) -> None:
        """Take in what the next step did."""
        # Momentum that is switched on later starts from velocities that are zero.
        if any(options["momentum"] for options in record.options):
            self.accumulators = 2
        if self._lanes.take(record):
            self._spans = self._columns.spans(self._lanes.groups)

    def add(self, values: Tensor, touched: NDArray[np.int64], gradients: Tensor) -> Tensor:
        """Bring rows up to the step just taken in."""
        products, injections = self._lanes.products.since(touched), self._lanes.injections
        count, result = self.accumulators, torch.empty_like(values)
        for lane, spans in enumerate(self._spans):
            matrix = _factors(products[:, lane, :count, :count], values)
            injection = _factors(injections[lane, :count], values)
            for span in spans:
                for after, row in enumerate(result[..., span]):
                    torch.mul(gradients[:, span], injection[after], out=row)
                    for before, value in enumerate(values[..., span]):
                        row.addcmul_(matrix[:, after, before, None], value)
        return result

    def catch_up(self, values: Tensor, touched: NDArray[np.int64]) -> Tensor:
        """Bring rows up to the last step taken in."""
        products, count = self._lanes.products.since(touched), self.accumulators
        result = values[0].clone()
        for lane, spans in enumerate(self._spans):
            matrix = _factors(products[:, lane, 0, :count], values)
            for span in spans:
                row = result[:, span].zero_()
                for before, value in enumerate(values[..., span]):
                    row.addcmul_(matrix[:, before, None], value)
        return result


class Planned(Recurrence):
    """Known coefficients: one accumulator a row.

    Args:
        columns: The columns of a row.
        lanes: The histories of the whole run.
    """

    accumulators = 1

    def __init__(self, columns: Columns, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes
        self._kappa = np.stack([coefficients(lane) for lane in lanes])
        self._spans = columns.spans([lane.names for lane in lanes])
        self._step = -1

    def take(self, record: StepRecord) -> None:
        """Take in what the next step did."""
        self._step = record.step

    def add(self, values: Tensor, touched: NDArray[np.int64], gradients: Tensor) -> Tensor:
        """Bring rows up to the step just taken in."""
        result = values.clone()
        for kappa, spans in zip(self._kappa[:, self._step], self._spans, strict=True):
            for span in spans:
                result[0, :, span].add_(gradients[:, span], alpha=float(kappa))
        return result

    def catch_up(self, values: Tensor, touched: NDArray[np.int64]) -> Tensor:
        """Bring rows up to the last step taken in."""
        return values[0]


def _factors(numbers: NDArray[np.float64], like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers)).to(like)
