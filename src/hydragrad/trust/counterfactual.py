"""What really happens: the same run once more, with some samples' weights at 0."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hydragrad.attribution.attribute import query_point
from hydragrad.derivatives import Layout
from hydragrad.errors import DataError, QueryError
from hydragrad.progress import Bar, bar
from hydragrad.randomness import preserved
from hydragrad.recording import Recording
from hydragrad.scores import Query, QueryPoint


@dataclass(frozen=True, kw_only=True)
class Counterfactual:
    """Measured changes: phi(trained without the group) - phi(trained), the sign and unit of contributions.

    Attributes:
        values: float64 (queries, groups).
        query_names: One name a row.
        query_values: phi of the trained model, float64 (queries,).
        groups: The samples left out, a group a column.
    """

    values: Tensor
    query_names: tuple[str, ...]
    query_values: Tensor
    groups: tuple[tuple[int, ...], ...]


def counterfactual(run: Recording, groups: Sequence[Sequence[int]], queries: Query | Sequence[Query]) -> Counterfactual:
    """Really train without each group: loss weight 0; initialisation, order, batch sizes and randomness as they were.

    Args:
        run: A completed run.
        groups: Training samples to leave out together, a group at a time.
        queries: What is asked of the final model.

    Raises:
        QueryError: Ids out of range, empty groups, or a run that was not completed.
        DataError: A group that holds all the data.

    Cost: one training a group.
    """
    asked = [queries] if isinstance(queries, Query) else list(queries)
    chosen = [tuple(int(i) for i in group) for group in groups]
    _check(run, chosen)
    point = query_point(run, Layout({}), Layout({}))
    before = _values(asked, run.trained_model(), point)
    with bar("retraining", len(chosen) * len(run.steps)) as progress:
        columns = [_values(asked, _trained_without(run, group, progress), point) - before for group in chosen]
    names = tuple(name for each in asked for name in each.names())
    return Counterfactual(
        values=torch.stack(columns, dim=1), query_names=names, query_values=before, groups=tuple(chosen)
    )


def _trained_without(run: Recording, group: Sequence[int], progress: Bar) -> nn.Module:
    weights = torch.ones(run.manifest.data["length"], device=run.device)
    weights[list(group)] = 0.0
    with run.replay() as replay:
        replay.trajectory.restore(run.initial)
        for record in run.steps:
            replay.advance(record, run.batch(record), weights[record.indices])
            progress.advance()
        return replay.trajectory.model


def _values(queries: Sequence[Query], model: nn.Module, point: QueryPoint) -> Tensor:
    with preserved():
        numbers = [value for query in queries for value in query.values(model, point)]
    return torch.tensor(numbers, dtype=torch.float64)


def _check(run: Recording, groups: Sequence[Sequence[int]]) -> None:
    if not run.completed:
        raise QueryError(
            f"{run.path} was not completed, so there is no final model to compare with. Train on with resume=True."
        )
    length = run.manifest.data["length"]
    for group in groups:
        wrong = [i for i in group if not 0 <= i < length]
        if wrong or not group:
            came = f"{wrong[:5]} came" if wrong else "an empty group came"
            raise QueryError(f"The run was trained on samples 0 to {length - 1}; {came}.")
        if len(set(group)) == length:
            raise DataError("Leaving out every training sample leaves nothing to train on.")
