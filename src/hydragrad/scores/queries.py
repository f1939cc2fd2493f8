"""Queries: scalars of the trained model, their values and gradients."""

import abc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import Dataset

from hydragrad.derivatives import Batch, Layout, LossModule, PerSampleLoss, use_explicit_batch_norm
from hydragrad.errors import QueryError
from hydragrad.randomness import reseed_everything
from hydragrad.scores.query_gradient import QueryGradient
from hydragrad.surroundings import users_default_device

Evaluate = Callable[[], tuple[Tensor, dict[str, Tensor]]]
"""Runs the loss once: losses (batch,), buffers."""

Collate = Callable[[list[Any]], Any]
"""Makes a batch of a list of items."""

CHUNK = 250
"""Samples a forward pass of a mean over a data set."""


class Fetch(Protocol):
    """Fetches samples of a data set as one batch's data."""

    def __call__(self, dataset: Dataset[Any], indices: Sequence[int], collate: Collate | None = None, /) -> Any:
        """The batch, by this collate function, or by what suits the data if it is None."""
        ...


@dataclass(frozen=True, kw_only=True)
class QueryPoint:
    """The trained model at which queries are evaluated.

    Attributes:
        model: Has the structure; is copied.
        loss: The run's per-sample loss.
        parameters: Final parameters.
        buffers: Final buffers.
        weights: Lays out the parameters to differentiate by.
        statistics: Lays out the running statistics to differentiate by.
        fetch: Fetches samples of a data set as one batch's data; given a query's collate function, with that.
    """

    model: nn.Module
    loss: PerSampleLoss
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    weights: Layout
    statistics: Layout
    fetch: Fetch

    def gradient(self) -> QueryGradient:
        """What differentiates a query's scalars here."""
        return QueryGradient(self.parameters, self.buffers, self.weights, self.statistics)


@dataclass(frozen=True)
class QueryRow:
    """One scalar: its name, value, and gradients by weights (parameters,) and running statistics (statistics,).

    Attributes:
        compared: How often its gradient was compared with its tangent.
        gap: Their largest relative difference.
    """

    name: str
    value: float
    w_bar: Tensor
    r_bar: Tensor
    compared: int = 0
    gap: float = 0.0


class Query(abc.ABC):
    """One or more scalars of the trained model, in eval mode unless `training`."""

    training: bool = False
    dataset: Dataset[Any] | None = None
    """The data that the scalars are losses of, where they are."""
    collate: Collate | None = None
    """What makes batches of the data, where the caller gave one."""

    @abc.abstractmethod
    def names(self) -> list[str]:
        """One name a scalar."""

    def single_samples(self) -> tuple[Dataset[Any], list[int]] | None:
        """The data set and its samples, where the scalars are the run's loss of one sample each."""
        return None

    @abc.abstractmethod
    def rows(self, point: QueryPoint) -> Iterator[QueryRow]:
        """Evaluate and differentiate each scalar."""

    @abc.abstractmethod
    def values(self, model: nn.Module, point: QueryPoint) -> list[float]:
        """Evaluate each scalar on a trained model."""


class SampleQuery(Query):
    """Averages over groups of samples of a data set: of the run's loss, unless `_numbers` says otherwise."""

    dataset: Dataset[Any]

    def __init__(self, dataset: Dataset[Any], groups: Sequence[Sequence[int]], names: Sequence[str]) -> None:
        self.dataset, self._groups, self._names = dataset, groups, list(names)

    def names(self) -> list[str]:
        """One name a group."""
        return self._names

    def single_samples(self) -> tuple[Dataset[Any], list[int]] | None:
        """The samples, where every group is one."""
        if any(len(group) != 1 for group in self._groups):
            return None
        return self.dataset, [group[0] for group in self._groups]

    def batch(self, point: QueryPoint, indices: Sequence[int]) -> Any:
        """Samples of the data set as one batch's data."""
        return point.fetch(self.dataset, indices, *([] if self.collate is None else [self.collate]))

    def rows(self, point: QueryPoint) -> Iterator[QueryRow]:
        """Evaluate and differentiate each group's average."""
        problem, gradient = _prepared(point, self.training), point.gradient()
        for name, group in zip(self._names, self._groups, strict=True):
            yield self._row(problem, gradient, point, name, group)

    def _row(
        self, problem: LossModule, gradient: QueryGradient, point: QueryPoint, name: str, group: Sequence[int]
    ) -> QueryRow:
        total, w_bar, r_bar = 0.0, *_zeros(point)
        before = gradient.compared
        for start in range(0, len(group), CHUNK):
            indices = group[start : start + CHUNK]
            batch = Batch(self.batch(point, indices), len(indices), seed=start)
            scalar = partial(self._share_of_mean, point, problem, batch, len(group))
            value, w, r = gradient(scalar, name)
            total, w_bar, r_bar = total + value, w_bar + w, r_bar + r
        return QueryRow(name, total, w_bar, r_bar, gradient.compared - before, gradient.gap)

    def values(self, model: nn.Module, point: QueryPoint) -> list[float]:
        """Evaluate each group's average."""
        problem = LossModule(model.train(self.training), point.loss)
        return [self._mean(problem, point, group) for group in self._groups]

    def _mean(self, problem: LossModule, point: QueryPoint, group: Sequence[int]) -> float:
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(group), CHUNK):
                indices = group[start : start + CHUNK]
                batch = Batch(self.batch(point, indices), len(indices), seed=start)
                total += self._numbers(point, problem, batch, partial(problem, batch)).double().sum().item()
        return total / len(group)

    def _share_of_mean(
        self,
        point: QueryPoint,
        problem: LossModule,
        batch: Batch,
        count: int,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
    ) -> Tensor:
        evaluate = partial(problem.at, parameters, buffers, batch)
        return self._numbers(point, problem, batch, evaluate).sum() / count

    def _numbers(self, point: QueryPoint, problem: LossModule, batch: Batch, evaluate: Evaluate) -> Tensor:
        """One number a sample, (batch,)."""
        return evaluate()[0]


class _FunctionQuery(Query):
    """Any differentiable scalar of the model."""

    def __init__(self, name: str, function: Callable[[Any], Tensor], *, training: bool) -> None:
        self._name, self._function, self.training = name, function, training

    def names(self) -> list[str]:
        return [self._name]

    def rows(self, point: QueryPoint) -> Iterator[QueryRow]:
        model = _FunctionModule(_prepared(point, self.training).model, self._function)

        def scalar(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            state = {f"model.{name}": value for name, value in (parameters | buffers).items()}
            result: Tensor = functional_call(model, state, ())
            return result

        gradient = point.gradient()
        value, w_bar, r_bar = gradient(scalar, self._name)
        yield QueryRow(self._name, value, w_bar, r_bar, gradient.compared, gradient.gap)

    def values(self, model: nn.Module, point: QueryPoint) -> list[float]:
        reseed_everything(0)
        with torch.no_grad(), users_default_device():
            return [float(self._function(model.train(self.training)))]


class _FunctionModule(nn.Module):
    def __init__(self, model: nn.Module, function: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.model, self._function = model, function

    def forward(self) -> Tensor:
        reseed_everything(0)
        with users_default_device():
            return self._function(self.model)


def mean_loss(
    dataset: Dataset[Any], name: str | None = None, *, training: bool = False, collate: Collate | None = None
) -> Query:
    """The run's loss, averaged over a data set; nats if the loss is a cross-entropy.

    Args:
        dataset: Map-style data set whose items the loss takes; preferably one that was not trained on.
        name: What the query is called in tables; "mean loss of ... samples" if None.
        training: Evaluate the model in training mode, where dropout and batch statistics are at work.
        collate: Makes a batch of a list of items. If None, torch's default, whatever training had, which may mix or
            augment samples; only where the default makes nothing that the loss takes, training's.

    Returns:
        A query of one scalar, for `attribute`, `Store.contributions`, `counterfactual` and similar functions.

    Raises:
        QueryError: An empty data set.
    """
    length = _length(dataset)
    query = SampleQuery(dataset, [range(length)], [name or f"mean loss of {length:,} samples"])
    query.training, query.collate = training, collate
    return query


def sample_losses(
    dataset: Dataset[Any], indices: Sequence[int], *, training: bool = False, collate: Collate | None = None
) -> Query:
    """The run's loss of single samples: one row a sample.

    Args:
        dataset: Map-style data set whose items the loss takes.
        indices: Which of its samples, in the order of the rows.
        training: Evaluate the model in training mode.
        collate: As `mean_loss` takes it.

    Returns:
        One query of as many scalars as there are indices.

    Raises:
        QueryError: Indices that the data set does not have.
    """
    samples = checked_indices(dataset, indices)
    query = SampleQuery(dataset, [[i] for i in samples], [f"loss of sample {i}" for i in samples])
    query.training, query.collate = training, collate
    return query


def query(name: str, function: Callable[[Any], Tensor], *, training: bool = False) -> Query:
    """Any differentiable scalar of the trained model.

    Args:
        name: What it is called in tables.
        function: `function(model)` returns a tensor with one number, differentiable with respect to the parameters;
            contributions have its unit, and positive means that it would be higher without the sample.
        training: Evaluate the model in training mode.

    Returns:
        A query of one scalar. A function that is not differentiable is refused when it is evaluated.
    """
    return _FunctionQuery(name, function, training=training)


def queries_of(queries: Query | Sequence[Query]) -> list[Query]:
    """One or several queries as a list.

    Raises:
        QueryError: Nothing, or something else.
    """
    listed = [queries] if isinstance(queries, Query) else list(queries)
    wrong = [type(query).__name__ for query in listed if not isinstance(query, Query)]
    if wrong or not listed:
        raise QueryError(
            f"Expected queries made by hg.mean_loss, hg.sample_losses or hg.query, got "
            f"{wrong[0] if wrong else 'no query'}."
        )
    return listed


def single_samples_of(queries: Sequence[Query]) -> tuple[Dataset[Any], tuple[int, ...]] | None:
    """One data set and its samples, where every scalar of the queries is the run's loss of one of them; else None."""
    parts = [query.single_samples() for query in queries]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or len({id(dataset) for dataset, _ in known}) != 1:
        return None
    return known[0][0], tuple(sample for _, samples in known for sample in samples)


def numbered(names: Iterable[str]) -> tuple[str, ...]:
    """Names as they are, and repeated ones with a number: a row is looked up by its name."""
    taken: dict[str, None] = {}
    for name in names:
        free, number = name, 1
        while free in taken:
            number += 1
            free = f"{name} ({number})"
        taken[free] = None
    return tuple(taken)


def checked_indices(dataset: Dataset[Any], indices: Sequence[int]) -> list[int]:
    """Indices of samples that a data set has.

    Raises:
        QueryError: Others, or none.
    """
    length = _length(dataset)
    samples = [int(i) for i in indices]
    wrong = [i for i in samples if not 0 <= i < length]
    if wrong or not samples:
        raise QueryError(f"The data set has samples 0 to {length - 1}, got {wrong[:5] if wrong else 'none'}.")
    return samples


def _length(dataset: Dataset[Any]) -> int:
    length = len(dataset)  # type: ignore[arg-type]
    if length == 0:
        raise QueryError("The data set of the query is empty.")
    return length


def _prepared(point: QueryPoint, training: bool) -> LossModule:
    explicit = use_explicit_batch_norm if point.statistics.size else None
    problem = LossModule(point.model, point.loss, explicit)
    problem.train(training)
    return problem


def _zeros(point: QueryPoint) -> tuple[Tensor, Tensor]:
    like = next(iter(point.parameters.values()))
    return like.new_zeros(point.weights.size), like.new_zeros(point.statistics.size)
