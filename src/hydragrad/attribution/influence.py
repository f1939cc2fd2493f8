"""Influence functions: what weights alone show about the samples, without the run that led to them.

Gradient of the sample, inverse damped Gauss-Newton matrix of the training set, gradient of the query, over the number
of samples: sign and unit of a contribution. As a prediction of what removing does to one run they are weak where
training has not converged; next to contributions they add what these do not show about a suspect. Averaged over the
run's checkpoints they predict what networks with other seeds learn from the samples, better than at the trained weights
alone (docs/results.md has the measurements).

Source: Koh and Liang, ICML 2017.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hydragrad.attribution.at_checkpoints import At, folder_of, in_order, key_of
from hydragrad.attribution.averaged_over import AveragedOver, averaged_over, in_a_range
from hydragrad.attribution.gauss_newton_matrix import CHUNK, COMPARED, TOLERANCE, DampedGaussNewton
from hydragrad.attribution.gradients import on_device, query_point
from hydragrad.derivatives import (
    Batch,
    Layout,
    LossModule,
    compare_with_safe,
    directional_derivatives,
    directional_one_by_one,
    tolerance_of,
    works_at_once,
)
from hydragrad.derivatives.directional.forward_mode import Directional
from hydragrad.errors import NonFinite, QueryError
from hydragrad.execution import ExecutorOption, PartOption, execution_of
from hydragrad.progress import bar
from hydragrad.randomness import preserved
from hydragrad.replay import Recording, Trained, fetch, require_map_style, samples_in
from hydragrad.replay.checkpoint_spread import checkpoint_at, spread_steps
from hydragrad.replay.data import data_fingerprint
from hydragrad.replay.histories import trained_layout
from hydragrad.replay.machine import threads
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.runs.kept import Key, tensor_key
from hydragrad.scores import Note, Query, QueryRow, Scores, checked_samples, numbered, queries_of
from hydragrad.scores.evidence import INFLUENCE
from hydragrad.scores.notes import of_candidates
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import Checkpoints

DAMPING, ITERATIONS, MATRIX = 0.1, 20, 5000


@in_clean_surroundings
def influence(
    run: Recording | Checkpoints,
    query: Query | Sequence[Query],
    *,
    checkpoints: int = 10,
    damping: float | None = None,
    samples: Sequence[int] | Tensor | None = None,
    candidates: Dataset[Any] | None = None,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
    executor: ExecutorOption = None,
    workers: int | None = None,
    part: PartOption = None,
    out: str | Path | None = None,
) -> Scores:
    """Influence functions, averaged over checkpoints: about the data rather than about this run.

    The values have the sign and the unit of contributions: positive helps. They estimate what models trained anew,
    from other seeds too, would lose without a sample; read the ranking, since their scale is not measured.

    Args:
        run: The recorded run, or checkpoints of a model trained elsewhere.
        query: A scalar of the model, or several.
        checkpoints: How many checkpoints to average over, at most: those nearest to the ends of so many equal parts of
            the run, the trained weights included. 1: the trained weights alone. A run with fewer checkpoints gives
            fewer.
        damping: Added to the Gauss-Newton matrix, times the identity. None chooses, at each checkpoint,
            0.01 of the matrix's largest eigenvalue.
        samples: Training samples to score (with `candidates`, which of them); all if None.
        candidates: Samples that were not trained on, to score in place of the training samples: the contribution of
            each as if it had been trained on with weight 1. Positive: adding it would help. Their batches are made as
            in training.
        iterations: Conjugate gradient steps, at most.
        tolerance: They end where the residual is this share of the query's gradient; the note says where they ended.
        executor, workers, part: As `hg.counterfactual` takes them, for the checkpoints.
        out: Folder in which the results of single checkpoints lie until all are there; RUN/scores if None. Needed for
            an executor or a slice of checkpoints of a model trained elsewhere.

    Returns:
        Scores with one row a query scalar. The evidence's note names the checkpoints, the damping and the residual.

    Raises:
        QueryError: Ids that do not exist, a query that does not depend on the parameters, no checkpoint, or a negative
            damping.
        LossError: The loss does not call the model once, or uses the parameters otherwise, too.
        NonFinite: A sample's loss has no finite derivative.
        Unsupported: `run` is neither.
        Unfinished: `part`, and checkpoints of other slices are missing.

    Cost: at every checkpoint, a gradient of the samples, and `iterations` Gauss-Newton products of up to 5,000 training
    samples a query; 8 more products for the largest eigenvalue.

    Source: Koh and Liang, ICML 2017.
    """
    execution = execution_of(executor, workers, part)
    over = averaged_over(run, checkpoints, "influence")
    if damping is not None and not (math.isfinite(damping) and damping >= 0):
        raise QueryError(f"damping must be finite and not negative, or None to choose it, got {damping}.")
    if iterations < 1 or not 0 <= tolerance < 1:
        raise QueryError(
            f"Conjugate gradients take iterations of 1 or more and a tolerance from 0 to below 1, got {iterations} and "
            f"{tolerance}."
        )
    queries, ids = queries_of(query), _ids(run, samples, candidates)
    total, parts, answers = torch.zeros((), dtype=torch.float64), list[Influence](), list[_Answer]()
    options = {"damping": damping, "iterations": iterations, "tolerance": tolerance}
    work = _AtCheckpoint(run, over, queries, ids, candidates, options)
    for tensors, facts in in_order(work, len(over), execution, folder_of(run, out), work.key):
        answers.append(_Answer.of(tensors, facts))
        total = total + answers[-1].influence.values
        parts.append(answers[-1].influence)
    notes = [_note(over, parts, damping is None)]
    if candidates is not None:
        notes.append(of_candidates(len(candidates)))  # type: ignore[arg-type]
    return Scores(
        values=total / len(over),
        sample_ids=ids,
        query_names=numbered(answers[-1].names),
        query_values=torch.tensor(answers[-1].values, dtype=torch.float64),  # the last is the trained model
        evidence=over.evidence(run, INFLUENCE, notes),
        queries=tuple(queries),
    )


def influence_functions(
    run: Recording,
    query: Query,
    *,
    damping: float = DAMPING,
    iterations: int = ITERATIONS,
    matrix_samples: int | None = MATRIX,
    checkpoints: int = 1,
) -> Tensor:
    """Influence of every training sample on every scalar of a query, float64 (queries, samples), for studies.

    Args:
        run: The recorded run.
        query: The query.
        damping: Added to the matrix's diagonal.
        iterations: Of conjugate gradients, at most.
        matrix_samples: How many training samples the matrix is averaged over, sampled with a fixed seed; all if None.
        checkpoints: As for `influence`.

    Raises:
        LossError: The loss does not call the model once, or uses the parameters otherwise, too.
        ValueError: No checkpoint.

    Cost: a gradient of the whole training set, and `iterations` Gauss-Newton products of `matrix_samples` a query; all
    of it for every checkpoint.
    """
    if checkpoints < 1:
        raise ValueError(f"influence_functions averages over one checkpoint or more, got checkpoints={checkpoints}.")
    layout, steps = trained_layout(run), spread_steps(run, checkpoints)
    total = torch.zeros((), dtype=torch.float64)
    for step in steps:
        at = checkpoint_at(run, step)
        gradients = query_gradients(run, layout, at, query)
        one = influence_at(
            run, layout, at, gradients, damping=damping, iterations=iterations, matrix_samples=matrix_samples
        )
        total = total + one.values
    return total / len(steps)


class Influence(NamedTuple):
    """Influence at one checkpoint.

    Attributes:
        values: float64 (queries, samples).
        damping: Of its matrix.
        residual: The largest that conjugate gradients left, relative to the query's gradient.
        products: Of the matrix, the most for a query.
    """

    values: Tensor
    damping: float
    residual: float
    products: int


class _Answer(NamedTuple):
    """Names and values of the queries' scalars at one checkpoint, and influence on them."""

    names: tuple[str, ...]
    values: tuple[float, ...]
    influence: Influence

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> "_Answer":
        """Of what `_AtCheckpoint` gives."""
        influence = Influence(values=tensors["influence"], **facts["influence"])
        return cls(tuple(facts["names"]), tuple(tensors["values"].tolist()), influence)


class _AtCheckpoint:
    """Influence at one checkpoint; a class, so that it can be sent to workers."""

    def __init__(
        self,
        run: Recording | Checkpoints,
        over: AveragedOver,
        queries: list[Query],
        ids: Tensor,
        candidates: Dataset[Any] | None,
        options: Mapping[str, Any],
    ) -> None:
        self._run, self._over, self._queries = run, over, queries
        self._ids, self._candidates, self._options = ids, candidates, options
        self._threads = torch.get_num_threads()  # workers round as this process does

    def __call__(self, number: int) -> At:
        with threads(self._threads):
            return self._answer(number)

    def _answer(self, number: int) -> At:
        run, layout, at = self._run, self._over.layout, self._over.read[number]()
        rows = query_rows(run, layout, at, self._queries)
        gradients = torch.stack([row.w_bar for row in rows])
        one = influence_at(run, layout, at, gradients, samples=self._ids, candidates=self._candidates, **self._options)
        facts = {name: value for name, value in one._asdict().items() if name != "values"}
        values = torch.tensor([row.value for row in rows], dtype=torch.float64)
        tensors = {"influence": one.values, "values": values}
        return tensors, {"names": [row.name for row in rows], "influence": facts}

    def key(self) -> Key:
        """What the results depend on, next to the number of the checkpoint."""
        candidates = None if self._candidates is None else data_fingerprint(self._candidates)
        over = [*self._over.steps, *self._over.names]
        options = ["influence", self._options, over, tensor_key(self._ids), candidates]
        return key_of(self._run, self._run.digest, self._queries, options)


def influence_at(
    run: Trained,
    layout: Layout,
    at: Checkpoint,
    gradients: Tensor,
    *,
    damping: float | None = DAMPING,
    iterations: int = ITERATIONS,
    matrix_samples: int | None = MATRIX,
    tolerance: float = TOLERANCE,
    samples: Tensor | None = None,
    candidates: Dataset[Any] | None = None,
) -> Influence:
    """The same at one checkpoint, of scalars whose gradients (queries, parameters) there are known.

    Args:
        damping, tolerance, candidates: As for `influence`.
        samples: Ids of the training samples, or of the candidates; all if None.
    """
    with preserved():
        matrix = DampedGaussNewton(run, layout, at, damping, matrix_samples)
    with preserved(), bar("influence functions", len(gradients), unit="queries") as progress:
        solution = matrix.solve(gradients, iterations, tolerance)
        progress.advance(len(gradients))
    return Influence(
        losses_along(run, layout, at, solution.x, samples, candidates) / samples_in(run),
        matrix.damping,
        solution.residual,
        solution.products,
    )


def query_rows(run: Trained, layout: Layout, at: Checkpoint, queries: Sequence[Query]) -> list[QueryRow]:
    """Values and gradients of the queries' scalars at a checkpoint."""
    point = query_point(run, layout, Layout({}), at)
    with preserved():
        return [row for query in queries for row in query.rows(point)]


def query_gradients(run: Trained, layout: Layout, at: Checkpoint, query: Query) -> Tensor:
    """Gradients of the query's scalars at a checkpoint, (queries, parameters)."""
    return torch.stack([row.w_bar for row in query_rows(run, layout, at, [query])])


def losses_along(
    run: Trained,
    layout: Layout,
    at: Checkpoint,
    directions: Tensor,
    samples: Tensor | None = None,
    candidates: Dataset[Any] | None = None,
) -> Tensor:
    """Derivatives of the losses of samples, all if None, along directions (queries, parameters).

    Args:
        candidates: A data set in place of the training set.

    Returns:
        float64 (queries, samples).

    Raises:
        NonFinite: Names the samples.
    """
    problem = LossModule(run.model, run.loss)
    problem.eval()
    parameters, buffers = on_device(run, at.parameters), on_device(run, at.buffers)
    wanted = _ids(run, None, candidates) if samples is None else samples
    with preserved():
        return torch.cat(
            _parts_along(run, problem, layout, (parameters, buffers), directions, wanted, candidates), dim=1
        )


def _parts_along(
    run: Trained,
    problem: LossModule,
    layout: Layout,
    state: tuple[dict[str, Tensor], dict[str, Tensor]],
    directions: Tensor,
    wanted: Tensor,
    candidates: Dataset[Any] | None,
) -> list[Tensor]:
    """The same of one chunk of samples after the other."""
    parts, (parameters, buffers) = [], state
    few = wanted[:COMPARED]
    batch = Batch(_fetched(run, few, candidates), len(few), 0)
    derivatives = _trusted_derivatives(problem, layout, parameters, buffers, batch, directions)
    for ids in wanted.split(CHUNK):
        batch = Batch(_fetched(run, ids, candidates), len(ids), 0)
        part = derivatives(problem, layout, parameters, buffers, batch, directions).losses_dot.double().cpu()
        if not part.isfinite().all():
            wrong = ids[~part.isfinite().all(0)].tolist()
            raise NonFinite(
                f"The losses of samples must have finite derivatives; those of {wrong[:5]} have not. Look for NaN or "
                f"infinity in these samples, or leave them out (samples=)."
            )
        parts.append(part)
    return parts


def _trusted_derivatives(
    problem: LossModule,
    layout: Layout,
    parameters: dict[str, Tensor],
    buffers: dict[str, Tensor],
    batch: Batch,
    directions: Tensor,
) -> Callable[..., Directional]:
    """Directional derivatives by forward mode where they are those of single backward passes; else the latter."""
    here = (problem, layout, parameters, buffers, batch)
    safe = directional_one_by_one(*here, directions[:1]).losses_dot
    compared = compare_with_safe(
        lambda: [directional_derivatives(*here, directions[:1]).losses_dot], [safe], tolerance=tolerance_of(safe.dtype)
    )
    # Derivatives that are not finite are named by the caller, and NaN agrees with nothing.
    if not compared.trusted and bool(safe.isfinite().all()):
        return directional_one_by_one
    return partial(directional_derivatives, at_once=len(directions) > 1 and works_at_once(*here))


def _ids(run: Trained, samples: Sequence[int] | Tensor | None, candidates: Dataset[Any] | None) -> Tensor:
    """Ids of training samples, or of candidates."""
    if candidates is None:
        return checked_samples(samples, samples_in(run))
    require_map_style(candidates, "data set of candidates")
    return checked_samples(samples, len(candidates))  # type: ignore[arg-type]


def _fetched(run: Trained, ids: Tensor, candidates: Dataset[Any] | None) -> Any:
    if candidates is None:
        return run.collate(ids.tolist())
    return fetch(candidates, ids.tolist(), seed=0, collate=run.collate_fn, device=run.device)


def _note(over: AveragedOver, parts: Sequence[Influence], chosen: bool) -> Note:
    amount = in_a_range(part.damping for part in parts)
    relative = ", a share of the largest eigenvalue at each" if chosen else ""
    text = (
        f"Influence functions, Gauss-Newton, {over.in_words}; damping {amount}{relative}. Conjugate gradients left at "
        f"most {max(part.residual for part in parts):.1g} of a query's gradient after up to "
        f"{max(part.products for part in parts)} products."
    )
    if over.names and len(over) == 1:
        text += " Several checkpoints of the training predict better than one."
    return Note("influence", text)
