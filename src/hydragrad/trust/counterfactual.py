"""What really happens: the same run once more, with some samples left out, reweighted or relabelled."""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

from hydragrad.attribution.gradients import query_point
from hydragrad.derivatives import Layout
from hydragrad.errors import DataError, QueryError
from hydragrad.execution import ExecutorOption, PartOption, execution_of
from hydragrad.randomness import preserved
from hydragrad.replay import Recording
from hydragrad.replay.changed_run import Change
from hydragrad.replay.retraining import State, retrain
from hydragrad.runs.buffers import put_state
from hydragrad.scores import Method, Query, QueryPoint, Removal, mean_loss, numbered, queries_of
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import require_recorded

TRAINING_SAMPLES = 500
"""Training samples in the query that stands in where none is passed."""


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


@in_clean_surroundings
def counterfactual(
    run: Recording,
    groups: Sequence[Sequence[int]],
    queries: Query | Sequence[Query],
    *,
    weight: float | Sequence[float] | None = None,
    labels: Mapping[int, int] | None = None,
    removal: Removal = "weight",
    executor: ExecutorOption = None,
    workers: int | None = None,
    part: PartOption = None,
    keep: bool = True,
) -> Counterfactual:
    """Really train without each group: loss weight 0; initialisation, order, batch sizes and randomness as they were.

    Args:
        run: A completed run.
        groups: Training samples to leave out together, a group at a time.
        queries: Scalars of the final model.
        weight: Loss weight of a group's samples: 0 leaves them out, 2 counts them twice; one number, or one a group.
            0 if None, and 1 with `labels`.
        removal: Whether the others of a batch keep their coefficients ("weight"), or the mean is taken over what the
            weights leave ("renormalised"): the mean over the rest, or a weighted one. A batch of which nothing is left
            adds no gradient; the optimizer steps all the same, as with "weight".
        labels: Instead: the label to train a sample with, by sample. Samples of the groups without one keep theirs.
        executor: Where they train: "here", "processes", "ray", an `hg.RayExecutor`, or any executor of
            concurrent.futures whose workers are other processes; the numbers are the same. None: here, or in processes
            where `workers` is above 1.
        workers: Processes that train at the same time; of other executors, jobs that wait or run.
        part: As "3/16": do this slice of the trainings, then those that are missing and that no other process works
            on; the results meet in RUN/retrained.
        keep: Save the final weights of every retraining in RUN/retrained, so that an interrupted call resumes and
            further queries cost no training.

    Raises:
        QueryError: Another `removal`, ids out of range, empty groups, weights that are not finite, not one a group or
            leave no mean, or a run that was not completed.
        DataError: A group that holds all the data.
        LossError: `labels` for data without integer labels.
        Unsupported: "renormalised", and a loss that is neither a mean nor a sum; a model, loss or data set that can't
            be sent to another process.
        Unfinished: `part`, and results of other slices are missing.

    Cost: one training a group; with `keep` the size of the model on disk for each.
    """
    require_recorded(run, "counterfactual")
    execution = execution_of(executor, workers, part)
    listed = queries_of(queries)
    changed = [tuple(int(i) for i in group) for group in groups]
    weights = _weights(weight, len(changed), relabelling=labels is not None)
    renormalised = Method(removal=removal).removal == "renormalised"
    _check(run, changed, weights)
    warn_of_overlap(run, listed)
    changes = [
        _change(group, number, labels or {}, renormalised) for group, number in zip(changed, weights, strict=True)
    ]
    before, values = measure(run, retrain(run, changes, execution=execution, keep=keep), listed)
    names = numbered(name for query in listed for name in query.names())
    return Counterfactual(values=values, query_names=names, query_values=before, groups=tuple(changed))


def measure(run: Recording, states: Iterable[tuple[int, State]], queries: Sequence[Query]) -> tuple[Tensor, Tensor]:
    """Values of the queries in the run, (queries,), and how retrainings change them, (queries, changes); float64.

    Args:
        run: The run.
        states: Number of the change and final state of every retraining, in any order.
        queries: Scalars of the final model.
    """
    point = query_point(run, Layout({}), Layout({}))
    model = run.trained_model()
    before = _values(queries, model, point)
    columns: dict[int, Tensor] = {}
    for number, state in states:
        columns[number] = _values(queries, _with_state(model, state), point) - before
    return before, torch.stack([columns[number] for number in range(len(columns))], dim=1)


def warn_of_overlap(run: Recording, queries: Sequence[Query]) -> None:
    """Warn where a query's samples are training samples: removing them then changes the query's own data."""
    for query in queries:
        if query.dataset is not None and _overlap(query.dataset, run.train_set):
            warnings.warn(
                f"The query {query.names()[0]!r} is about training samples: what removing them changes is mostly "
                f"that they are no longer fitted. Take held-out data to measure what a sample is worth.",
                stacklevel=4,
            )


def _overlap(queried: Dataset[Any], trained: Dataset[Any]) -> bool:
    """Whether two data sets visibly share samples: the same object, a subset of it, or tensors over the same memory."""
    while isinstance(queried, Subset):
        queried = queried.dataset
    if queried is trained:
        return True
    if not (isinstance(queried, TensorDataset) and isinstance(trained, TensorDataset)):
        return False
    return any(_share_memory(a, b) for a in queried.tensors for b in trained.tensors)


def _share_memory(a: Tensor, b: Tensor) -> bool:
    if not (a.is_contiguous() and b.is_contiguous() and a.numel() and b.numel()):
        return False
    return a.data_ptr() < b.data_ptr() + b.nbytes and b.data_ptr() < a.data_ptr() + a.nbytes


def _weights(weight: float | Sequence[float] | None, groups: int, *, relabelling: bool) -> list[float]:
    """The loss weight of every group."""
    if weight is None:
        weight = 1.0 if relabelling else 0.0
    weights = [float(weight)] * groups if isinstance(weight, int | float) else [float(number) for number in weight]
    if len(weights) != groups or not all(map(math.isfinite, weights)):
        raise QueryError(f"weight takes one finite number, or one for each of the {groups} groups, got {weight}.")
    return weights


def _change(group: Sequence[int], weight: float, labels: Mapping[int, int], renormalised: bool) -> Change:
    weights = {} if weight == 1 else dict.fromkeys(group, float(weight))
    relabelled = {i: int(labels[i]) for i in group if i in labels}
    return Change(weights=weights, labels=relabelled, renormalised=renormalised)


def _with_state(model: nn.Module, state: State) -> nn.Module:
    put_state(model, state)
    return model


def _values(queries: Sequence[Query], model: nn.Module, point: QueryPoint) -> Tensor:
    with preserved():
        numbers = [value for query in queries for value in query.values(model, point)]
    return torch.tensor(numbers, dtype=torch.float64)


def _check(run: Recording, groups: Sequence[Sequence[int]], weights: Sequence[float]) -> None:
    require_completed(run)
    length = run.manifest.data["length"]
    if not groups:
        raise QueryError("Give at least one group of training samples.")
    for group, weight in zip(groups, weights, strict=True):
        wrong = [i for i in group if not 0 <= i < length]
        if wrong or not group:
            got = str(wrong[:5]) if wrong else "an empty group"
            raise QueryError(f"The run was trained on samples 0 to {length - 1}, got {got}.")
        if weight == 0 and len(set(group)) == length:
            raise DataError("Leaving out every training sample leaves nothing to train on.")


def training_loss(run: Recording, seed: int) -> Query:
    """The query where none is passed: the mean loss of up to 500 training samples."""
    generator = torch.Generator().manual_seed(seed + 1)
    some = torch.randperm(run.manifest.data["length"], generator=generator)[:TRAINING_SAMPLES].tolist()
    return mean_loss(Subset(run.train_set, some), name="training loss")


def require_completed(run: Recording) -> None:
    """Refuse to retrain a run whose end is not known."""
    if not run.completed:
        raise QueryError(
            f"{run.path} was not completed, so there is no final model to compare with. Train on with resume=True."
        )
