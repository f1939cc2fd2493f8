"""How a row takes in a gradient: three ways.

`Lazy` needs nothing but the steps so far, so any schedule will do: it keeps (w_dot, states) of every sample as they
were when the sample was last sampled, and catches up by one product of small matrices. `Planned` knows every
coefficient kappa_t, because the run is recorded or its schedule was planned: one accumulator, no catching up. Both need
a rule with a closed form and give the same. `Eager` moves every row at every step: for rules whose step is another one
in every coordinate (Adam).
"""

import abc
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydragrad.derivatives import Layout
from hydragrad.errors import Unsupported
from hydragrad.runs import StepRecord
from hydragrad.steps import (
    History,
    Part,
    StepPoint,
    StepRule,
    Tangent,
    Transform,
    coefficients,
    smoothing_of,
    states_in_force,
    tangent_all,
    tangent_transforms,
)
from hydragrad.steps.rule import Age
from hydragrad.tracking.rows.columns import Columns
from hydragrad.tracking.rows.histories import Ages, GrowingHistories


class TakenAt(NamedTuple):
    """Where a step was taken, flat.

    Attributes:
        point: Where the optimizer stepped.
        gradients: The gradients before each transform.
    """

    point: StepPoint
    gradients: Sequence[Tensor] = ()


class Recurrence(abc.ABC):
    """Advances rows by what a step did.

    Attributes:
        accumulators: Numbers that a row has a column: the tangent of the weight, and of optimizer states.
        every_row: Whether a step moves rows whose samples it did not sample, too.
    """

    accumulators: int
    every_row = False

    @abc.abstractmethod
    def take(self, record: StepRecord, at: "TakenAt | None" = None) -> None:
        """Take in what the next step did, and where, for recurrences that move every row."""

    @abc.abstractmethod
    def add(self, values: Tensor, touched: NDArray[np.int64], gradients: Tensor) -> Tensor:
        """Bring rows up to the step just taken in, their gradients of that step included.

        Args:
            values: The rows' accumulators, (accumulators, rows, columns).
            touched: How many steps each row takes into account, (rows,).
            gradients: The samples' gradients times their coefficients, (rows, columns).
        """

    @abc.abstractmethod
    def catch_up(self, values: Tensor, touched: NDArray[np.int64]) -> Tensor:
        """Bring rows up to the last step taken in; returns the tangents of the weights, (rows, columns)."""


class Eager(Recurrence):
    """Any rule: every row moves at every step.

    Args:
        layout: Lays out the tracked parameters.
        rule: Of their optimizer.
        ages: Of the parameters at the start.
        states: How many optimizer states rows have tangents of.
        smoothing: Share of the mean second moment that is added under its root in the derivative.
    """

    every_row = True

    def __init__(self, layout: Layout, rule: StepRule, ages: Mapping[str, Age], states: int, smoothing: float) -> None:
        self.accumulators = 1 + states
        self._layout, self._smoothing = layout, smoothing
        self._ages = Ages(rule, ages, layout.names)
        self._parts: list[Part] = []
        self._at: TakenAt | None = None
        self._transforms: Sequence[Transform] = ()

    def take(self, record: StepRecord, at: TakenAt | None = None) -> None:
        """Take in what the next step did, and where."""
        moves, _ = self._ages.take(record)
        states = states_in_force(self._ages.rule, record.options)
        if len(states) >= self.accumulators:
            raise Unsupported(
                f"Rows need the optimizer's states from the first tracked step on; {states[-1]} came at step "
                f"{record.step}. Switch its option on from the start."
            )
        self._at, self._transforms, self._parts = at, record.transforms, []
        for name, span in self._layout.spans.items():
            move, rule = moves[name], self._ages.rule
            last = self._parts[-1] if self._parts else None
            if move is None:
                continue
            if not rule.elementwise:
                self._parts.append(Part(span, rule, move, tuple(self._layout.shapes[name])))
            elif last is not None and last.move == move and last.span.stop == span.start:
                self._parts[-1] = last._replace(span=slice(last.span.start, span.stop))
            else:
                self._parts.append(Part(span, rule, move))

    def add(self, values: Tensor, touched: NDArray[np.int64], gradients: Tensor) -> Tensor:
        """Bring all rows up to the step just taken in."""
        assert self._at is not None
        point = StepPoint(
            self._at.point.weights.to(values),
            tuple(state.to(values) for state in self._at.point.states),
            self._at.point.gradient.to(values),
        )
        raw = [gradient.to(values) for gradient in self._at.gradients]
        g_dot = tangent_transforms(self._transforms, self._layout.spans, gradients, raw)
        rho = smoothing_of(self._parts, point, self._smoothing)
        after = tangent_all(self._parts, Tangent(values[0], tuple(values[1:])), g_dot, point, rho)
        return torch.stack([after.w_dot, *after.states])

    def catch_up(self, values: Tensor, touched: NDArray[np.int64]) -> Tensor:
        """Rows are where the last step left them."""
        return values[0]


class Lazy(Recurrence):
    """Any schedule: an accumulator a row and optimizer state, from the first step that has the state on.

    Args:
        columns: The columns of a row.
        histories: As they unfold.
        states: How many optimizer states rows have tangents of at the start.
    """

    def __init__(self, columns: Columns, histories: GrowingHistories, *, states: int) -> None:
        self.accumulators = 1 + states
        self._columns, self._histories = columns, histories
        self._spans = columns.spans(histories.groups)

    def take(self, record: StepRecord, at: TakenAt | None = None) -> None:
        """Take in what the next step did."""
        # A state that appears later, with an option that is switched on, starts from tangents that are zero.
        self.accumulators = max(self.accumulators, 1 + len(states_in_force(self._histories.rule, record.options)))
        if self._histories.take(record):
            self._spans = self._columns.spans(self._histories.groups)

    def add(self, values: Tensor, touched: NDArray[np.int64], gradients: Tensor) -> Tensor:
        """Bring rows up to the step just taken in."""
        products, injections = self._histories.products.since(touched), self._histories.injections
        count, result = self.accumulators, torch.empty_like(values)
        for number, spans in enumerate(self._spans):
            matrix = _factors(products[:, number, :count, :count], values)
            injection = _factors(injections[number, :count], values)
            for span in spans:
                for after, row in enumerate(result[..., span]):
                    torch.mul(gradients[:, span], injection[after], out=row)
                    for before, value in enumerate(values[..., span]):
                        row.addcmul_(matrix[:, after, before, None], value)
        return result

    def catch_up(self, values: Tensor, touched: NDArray[np.int64]) -> Tensor:
        """Bring rows up to the last step taken in."""
        products, count = self._histories.products.since(touched), self.accumulators
        result = values[0].clone()
        for number, spans in enumerate(self._spans):
            matrix = _factors(products[:, number, 0, :count], values)
            for span in spans:
                row = result[:, span].zero_()
                for before, value in enumerate(values[..., span]):
                    row.addcmul_(matrix[:, before, None], value)
        return result


class Planned(Recurrence):
    """Known coefficients: one accumulator a row.

    Args:
        columns: The columns of a row.
        histories: Of the whole run.
    """

    accumulators = 1

    def __init__(self, columns: Columns, histories: Sequence[History]) -> None:
        self._kappa = np.stack([coefficients(history) for history in histories])
        self._spans = columns.spans([history.names for history in histories])
        self._step = -1

    def take(self, record: StepRecord, at: TakenAt | None = None) -> None:
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
