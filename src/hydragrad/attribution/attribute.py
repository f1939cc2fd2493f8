"""`attribute`: contributions of training samples to queries, from a recorded run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hydragrad.attribution.advice import advice_notes
from hydragrad.attribution.plan import Job, Tally
from hydragrad.attribution.replays import over_replays
from hydragrad.attribution.segments import Route, choose_route, sum_segments
from hydragrad.attribution.sweep import require_curvature, sweep
from hydragrad.derivatives import (
    HooksInapplicable,
    Layout,
    LossModule,
    running_statistics,
    tensor_leaves,
)
from hydragrad.derivatives.one_call import capture_output
from hydragrad.errors import LossError, QueryError, Unsupported
from hydragrad.randomness import preserved
from hydragrad.replay import Recording, fetch
from hydragrad.replay.histories import run_histories, trained_layout
from hydragrad.replay.statistics import moved_statistics
from hydragrad.runs import Checkpoint
from hydragrad.scores import (
    Curvature,
    Evidence,
    Method,
    Note,
    Query,
    QueryPoint,
    QueryRow,
    Scores,
    checked_samples,
    numbered,
    queries_of,
)
from hydragrad.scores.notes import CURVATURE_DROPPED, STATISTICS_CONSTANT, interrupted

MEMORY = 1 << 30
"""Bytes that the flat directions of one pass, and the replayed states of a sweep, may each take."""

ROUTES = ("auto", "hooks", "jvp")


def attribute(
    run: Recording,
    query: Query | Sequence[Query],
    *,
    curvature: Curvature = "none",
    damping: float = 0.0,
    smoothing: float | None = None,
    samples: Sequence[int] | Tensor | None = None,
    labels: bool = False,
    stretches: int = 0,
    replays: int | Sequence[int] = 0,
    drop: float = 0.1,
    workers: int = 1,
    route: Literal["auto", "hooks", "jvp"] = "auto",
    memory: int = MEMORY,
) -> Scores:
    """Attribute the final model's behaviour to single training samples.

    A contribution is -d(query)/d(weight of the sample's loss): positive helps (lowers a loss), in the query's
    unit, to first order what the query would rise by if the sample's weight had been 0.

    Args:
        run: The recorded run.
        query: A scalar of the final model, or several in the same pass.
        curvature: "none" drops the curvature of the loss (HYDRA): one replay, ranking without a scale to trust.
            "hessian" is the exact derivative of the run, for runs that are smooth. "ggn" takes the Gauss-Newton
            matrix for the Hessian: it does not blow up on runs with kinks (ReLU, max-pooling).
        damping: Added to the curvature, times the identity.
        smoothing: For optimizers that divide by the root of a second moment (Adam, AdamW): what is added under the root
            in the derivative, as a share of the mean second moment of the step. 0 is the exact derivative, which holds
            for tiny changes only; 0.01, the default there, predicted removals best.
        samples: Training samples to score; all if None.
        replays: Average over so many replays that each leave out their own random share of the samples, in place of
            the run itself: for runs with kinks. Takes that many trainings and sweeps. Or the numbers of the replays,
            as in [4, 5]: a replay's number decides what it leaves out, and 4 means 0 to 3.
        drop: Share of the samples that a replay leaves out.
        workers: Processes that replay at the same time.
        labels: Also the contribution each sample would have under every label (plain cross-entropy only).
        stretches: Also what each of so many equal stretches of the run's steps added (of hg.train's runs, as many as
            epochs are the epochs). Costs no further pass.
        route: How "none" takes directional derivatives: by dot products in the replay's backward pass, or by
            forward mode. Both agree; "auto" takes the first where it is valid.
        memory: Bytes for directions and for replayed states, each.

    Returns:
        Scores with one row a query scalar. Called again after an interruption it resumes where it stopped.

    Raises:
        QueryError: Ids that do not exist, a query that does not depend on the parameters, or options that do not fit
            together.
        LossError: "ggn" or labels with a loss that does not call the model once; labels without cross-entropy.
        Unsupported: "hessian" or "ggn" with buffers that update themselves and are not BatchNorm's, or where the
            gradient is stopped (detach(), torch.no_grad) on its way.
        ReplayMismatch: The run can't be repeated.

    Cost: one training step is 3 units; see the table "what it costs" in the docs.

    Source: Chen et al. 2021, eqs. 35-36, transposed.
    """
    method = Method.of(curvature, damping=damping, smoothing=smoothing, replays=replays, drop=drop)
    if route not in ROUTES:
        raise QueryError(f"route must be one of {', '.join(ROUTES)}, got {route!r}.")
    if not 0 <= stretches <= len(run.steps):
        raise QueryError(f"stretches must be 0 to {len(run.steps):,}, the number of steps, got {stretches}.")
    queries = queries_of(query)
    sample_ids = checked_samples(samples, run.manifest.data["length"])
    prepare = partial(_prepare, method=method, sample_ids=sample_ids, labels=labels, stretches=stretches)
    if curvature != "none":
        require_curvature(prepare(run, []))
    parts: list[_Part] = []
    values, names = [], []
    for rows in _chunks(run, prepare(run, []), queries, memory):
        values += [row.value for row in rows]
        names += [row.name for row in rows]
        job = prepare(run, rows)
        if method.replays:
            job_of = _SameQueries(prepare, queries, len(values) - len(rows), len(rows))
            parts.append(_Part(*over_replays(job, job_of, memory=memory, workers=workers), "sweep"))
        else:
            parts.append(_sums(job, route, memory))
    return Scores(
        values=-torch.cat([part.tally.values for part in parts]),
        sample_ids=sample_ids,
        query_names=numbered(names),
        query_values=torch.tensor(values, dtype=torch.float64),
        label_contributions=-torch.cat([part.tally.labels for part in parts]) if labels else None,
        over_time=-torch.cat([part.tally.over_time for part in parts]).float() if stretches else None,
        evidence=_evidence(run, method, parts),
        queries=tuple(queries),
    )


def query_point(run: Recording, weights: Layout, statistics: Layout, at: Checkpoint | None = None) -> QueryPoint:
    """The run's final model, or the one at a checkpoint, in the form that queries take."""
    state = run.final if at is None else at
    return QueryPoint(
        model=run.model,
        loss=run.loss,
        parameters=on_device(run, state.parameters),
        buffers=on_device(run, state.buffers),
        weights=weights,
        statistics=statistics,
        fetch=lambda dataset, indices: fetch(dataset, indices, seed=0, collate=run.collate_fn, device=run.device),
    )


def _prepare(
    run: Recording,
    rows: Sequence[QueryRow],
    *,
    method: Method,
    sample_ids: Tensor,
    labels: bool,
    stretches: int,
) -> Job:
    known = run_histories(run)
    statistics = moved_statistics(run) if method.curvature != "none" else {}
    return Job(
        run=run,
        rows=rows,
        histories=known,
        weights=trained_layout(run, known),
        statistics=Layout(statistics),
        sample_ids=sample_ids,
        method=method,
        classes=_classes(run) if labels else 0,
        stretches=stretches,
    )


class _Part(NamedTuple):
    """Sums for some of the queries' scalars, the largest drift of the replay, and how derivatives were taken."""

    tally: Tally
    drift: float
    route: str


class _SameQueries:
    """Prepares some of the queries' scalars for another run; a class, so that it can be sent to workers."""

    def __init__(
        self, prepare: Callable[[Recording, Sequence[QueryRow]], Job], queries: Sequence[Query], start: int, count: int
    ) -> None:
        self._prepare, self._queries, self._start, self._count = prepare, queries, start, count

    def __call__(self, run: Recording) -> Job:
        job = self._prepare(run, [])
        point = query_point(run, job.weights, job.statistics)
        rows = (row for query in self._queries for row in query.rows(point))
        with preserved():
            some = list(islice(rows, self._start, self._start + self._count))
        return replace(job, rows=some)


def _sums(job: Job, route: str, memory: int) -> _Part:
    if job.method.curvature != "none" or not job.has_closed_form:
        return _Part(*sweep(job, memory=memory), "sweep")
    best: Route = choose_route(job)[0] if route == "auto" else _valid_route(job, route)
    try:
        return _Part(*sum_segments(job, best, job.run.segments), best)
    except HooksInapplicable:
        if route != "auto":
            raise
        return _Part(*sum_segments(job, "jvp", job.run.segments), "jvp")


def _valid_route(job: Job, route: str) -> Route:
    if route == "jvp":
        return "jvp"
    valid, reason = choose_route(job)
    if valid != "hooks":
        raise Unsupported(f"route='hooks' is not valid here: {reason}. Use route='jvp' or 'auto'.")
    return valid


def _chunks(run: Recording, job: Job, queries: Sequence[Query], memory: int) -> Iterator[list[QueryRow]]:
    """Differentiate queries, in chunks whose directions fit into memory several times over."""
    point = query_point(run, job.weights, job.statistics)
    rows = (row for query in queries for row in query.rows(point))
    size = max(1, memory // (4 * max(1, job.weights.size) * job.like.element_size()))
    while True:
        with preserved():
            chunk = list(islice(rows, size))
        if not chunk:
            return
        yield chunk


def _classes(run: Recording) -> int:
    """Number of labels: the last dimension of the output of the model's one call."""
    record = run.steps[0]
    problem = LossModule(run.model, run.loss)
    with preserved(), torch.no_grad(), capture_output(problem, required=True) as captured:
        batch = run.batches(record)[0]
        initial = run.initial
        problem.at(on_device(run, initial.parameters), on_device(run, initial.buffers), batch)
        output = captured.tensor
    integers = [leaf for leaf in tensor_leaves(batch.data) if not leaf.is_floating_point()]
    if output.dim() != 2 or not any(leaf.shape == output.shape[:1] for leaf in integers):
        raise LossError(
            f"labels=True needs logits of shape (batch, classes) and integer labels of shape (batch,) in the batch; "
            f"the model's output has shape {tuple(output.shape)}. Leave labels=True out."
        )
    return output.shape[1]


def on_device(run: Recording, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Named tensors on the run's device."""
    return {name: value.to(run.device) for name, value in values.items()}


def _evidence(run: Recording, method: Method, parts: Sequence[_Part]) -> Evidence:
    return Evidence(
        method=method,
        route=parts[0].route,
        steps=len(run.steps),
        completed=run.completed,
        replay_exact=run.same_machine,
        replay_drift=max(part.drift for part in parts),
        notes=tuple(_notes(run, method)),
    )


def _notes(run: Recording, method: Method) -> Iterator[Note]:
    if method.replays:
        yield Note(
            "replays",
            f"Averaged over {len(method.replays)} replays that each left out their own random {100 * method.drop:g} %.",
        )
    if method.curvature == "none":
        yield CURVATURE_DROPPED
        if running_statistics(run.model):
            yield STATISTICS_CONSTANT
    yield from advice_notes(run, method)
    if not run.completed:
        yield interrupted(len(run.steps))
