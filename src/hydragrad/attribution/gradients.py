"""Gradients of queries at a run's model, where a sweep starts from."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, Self

import torch
from torch import Tensor

from hydragrad.attribution.plan import Plan
from hydragrad.derivatives import Layout
from hydragrad.derivatives.held import Held
from hydragrad.randomness import preserved
from hydragrad.replay import Trained
from hydragrad.replay.held_out import HeldOutBatches
from hydragrad.replay.machine import threads
from hydragrad.runs import Checkpoint
from hydragrad.scores import Query, QueryPoint, QueryRow


class QueryGradients(NamedTuple):
    """Some scalars of queries, differentiated at the final model.

    Attributes:
        names: Their names.
        values: Their values.
        w_bar: Gradients by the weights, (queries, parameters).
        r_bar: Gradients by the running statistics, (queries, statistics).
        held: Comparisons of the gradients with tangents.
    """

    names: tuple[str, ...]
    values: tuple[float, ...]
    w_bar: Tensor
    r_bar: Tensor
    held: Held = Held()

    @classmethod
    def of(cls, rows: Sequence[QueryRow]) -> Self:
        """Stack the gradients of scalars."""
        return cls(
            tuple(row.name for row in rows),
            tuple(row.value for row in rows),
            torch.stack([row.w_bar for row in rows]),
            torch.stack([row.r_bar for row in rows]),
            Held(sum(row.compared for row in rows), max(row.gap for row in rows)),
        )


def gradients_in_chunks(plan: Plan, queries: Sequence[Query], size: int) -> Iterator[QueryGradients]:
    """Differentiate queries at the run's final model, so many scalars at a time."""
    rows = _rows(plan, queries)
    while True:
        with preserved(), threads(plan.run.manifest.machine["threads"]):
            chunk = list(islice(rows, size))
        if not chunk:
            return
        yield QueryGradients.of(chunk)


def gradients_of_some(plan: Plan, queries: Sequence[Query], numbers: range) -> QueryGradients:
    """Differentiate the scalars of queries with the given numbers, counted over all queries."""
    with preserved(), threads(plan.run.manifest.machine["threads"]):
        return QueryGradients.of(list(islice(_rows(plan, queries), numbers.start, numbers.stop)))


def query_point(run: Trained, weights: Layout, statistics: Layout, at: Checkpoint | None = None) -> QueryPoint:
    """The trained model, or the one at a checkpoint, in the form that queries take."""
    state = run.final if at is None else at
    return QueryPoint(
        model=run.model,
        loss=run.loss,
        parameters=on_device(run, state.parameters),
        buffers=on_device(run, state.buffers),
        weights=weights,
        statistics=statistics,
        fetch=HeldOutBatches(run.model, run.loss, run.collate_fn, run.device),
    )


def on_device(run: Trained, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Named tensors on the run's device."""
    return {name: value.to(run.device) for name, value in values.items()}


def _rows(plan: Plan, queries: Sequence[Query]) -> Iterator[QueryRow]:
    point = query_point(plan.run, plan.weights, plan.statistics)
    return (row for query in queries for row in query.rows(point))
