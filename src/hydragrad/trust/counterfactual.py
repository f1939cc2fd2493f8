"""What really happens: the same run once more, with some samples left out, reweighted or relabelled."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from hydragrad.attribution.attribute import query_point
from hydragrad.derivatives import Layout
from hydragrad.errors import DataError, QueryError
from hydragrad.randomness import preserved
from hydragrad.recording import Recording
from hydragrad.scores import Query, QueryPoint, mean_loss, numbered, queries_of
from hydragrad.training.retraining import Change, State, retrain

OWN = 500


@dataclass(frozen=True, kw_only=True)
class Counterfactual:
    """Measured changes: phi(trained with the change) - phi(trained), the sign and unit of contributions.

    Attributes:
        values: float64 (queries, groups).
        query_names: One name a row.
        query_values: phi of the trained model, float64 (queries,).
        groups: The samples that were changed, a group a column.
    """

    values: Tensor
    query_names: tuple[str, ...]
    query_values: Tensor
    groups: tuple[tuple[int, ...], ...]


def counterfactual(
    run: Recording,
    groups: Sequence[Sequence[int]],
    queries: Query | Sequence[Query],
    *,
    weight: float | None = None,
    labels: Mapping[int, int] | None = None,
    workers: int = 1,
    keep: bool = True,
) -> Counterfactual:
    """Really train without each group: loss weight 0; initialisation, order, batch sizes and randomness as they were.

    Args:
        run: A completed run.
        groups: Training samples to leave out together, a group at a time.
        queries: What is asked of the final model.
        weight: Loss weight of a group's samples: 0 leaves them out, 2 counts them twice. 0 if None, and 1 where
            `labels` are given.
        labels: Instead: the label to train a sample with, by sample. Samples of the groups without one keep theirs.
        workers: Processes that train at the same time.
        keep: Keep the final weights of every retraining in RUN/retrained, so that an interrupted call goes on and
            further queries cost no training.

    Raises:
        QueryError: Ids out of range, empty groups, or a run that was not completed.
        DataError: A group that holds all the data.
        LossError: `labels` for data without integer labels.
        Unsupported: `workers` and a model, loss or data set that can't be sent to another process.

    Cost: one training a group; kept, the size of the model on disk.
    """
    asked = queries_of(queries)
    chosen = [tuple(int(i) for i in group) for group in groups]
    if weight is None:
        weight = 0.0 if labels is None else 1.0
    _check(run, chosen, leave_out=weight == 0)
    warn_of_overlap(run, asked)
    changes = [_change(group, weight, labels or {}) for group in chosen]
    before, values = measure(run, retrain(run, changes, workers=workers, keep=keep), asked)
    names = numbered(name for each in asked for name in each.names())
    return Counterfactual(values=values, query_names=names, query_values=before, groups=tuple(chosen))


def measure(run: Recording, states: Iterable[tuple[int, State]], queries: Sequence[Query]) -> tuple[Tensor, Tensor]:
    """Values of the queries in the run, (queries,), and how retrainings change them, (queries, changes); float64.

    Args:
        run: The run.
        states: Number of the change and final state of every retraining, in any order.
        queries: What is asked.
    """
    point = query_point(run, Layout({}), Layout({}))
    model = run.trained_model()
    before = _values(queries, model, point)
    columns: dict[int, Tensor] = {}
    for number, state in states:
        columns[number] = _values(queries, _with_state(model, state), point) - before
    return before, torch.stack([columns[number] for number in range(len(columns))], dim=1)


def warn_of_overlap(run: Recording, queries: Sequence[Query]) -> None:
    """Say so where a query's samples are the training samples: removing them then changes the question's own data."""
    for query in queries:
        if query.dataset is run.train_set:
            warnings.warn(
                f"The query {query.names()[0]!r} asks about training samples: what removing them changes is mostly "
                f"that they are no longer fitted. Ask about held-out data to learn what a sample is worth.",
                stacklevel=3,
            )


def _change(group: Sequence[int], weight: float, labels: Mapping[int, int]) -> Change:
    weights = {} if weight == 1 else dict.fromkeys(group, float(weight))
    return Change(weights=weights, labels={i: int(labels[i]) for i in group if i in labels})


def _with_state(model: nn.Module, state: State) -> nn.Module:
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        value.copy_(state[name])
    return model


def _values(queries: Sequence[Query], model: nn.Module, point: QueryPoint) -> Tensor:
    with preserved():
        numbers = [value for query in queries for value in query.values(model, point)]
    return torch.tensor(numbers, dtype=torch.float64)


def _check(run: Recording, groups: Sequence[Sequence[int]], *, leave_out: bool) -> None:
    require_completed(run)
    length = run.manifest.data["length"]
    if not groups:
        raise QueryError("Give at least one group of training samples.")
    for group in groups:
        wrong = [i for i in group if not 0 <= i < length]
        if wrong or not group:
            came = f"{wrong[:5]} came" if wrong else "an empty group came"
            raise QueryError(f"The run was trained on samples 0 to {length - 1}; {came}.")
        if leave_out and len(set(group)) == length:
            raise DataError("Leaving out every training sample leaves nothing to train on.")


def training_loss(run: Recording, seed: int) -> Query:
    """The query that is asked where none is given: the mean loss of up to OWN training samples."""
    generator = torch.Generator().manual_seed(seed + 1)
    some = torch.randperm(run.manifest.data["length"], generator=generator)[:OWN].tolist()
    return mean_loss(Subset(run.train_set, some), name="training loss")


def require_completed(run: Recording) -> None:
    """Refuse to retrain a run whose end is not known."""
    if not run.completed:
        raise QueryError(
            f"{run.path} was not completed, so there is no final model to compare with. Train on with resume=True."
        )
