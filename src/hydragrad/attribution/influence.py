"""Influence functions: what weights alone show about the samples, without the run that led to them.

Gradient of the sample, inverse damped Gauss-Newton matrix of the training set, gradient of the query, over the number
of samples: sign and unit of a contribution. As a prediction of what removing does to one run they are weak where
training has not converged; next to contributions they add what these do not show about a suspect. Averaged over the
run's checkpoints they predict what networks with other seeds learn from the samples, better than at the trained weights
alone (docs/results.md has the measurements).

Source: Koh and Liang, ICML 2017.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hydragrad.attribution.at_checkpoints import At, folder_of, in_order, key_of
from hydragrad.attribution.averaged_over import AveragedOver, averaged_over, in_a_range
from hydragrad.attribution.gauss_newton_matrix import (
    DAMPING_SHARE,
    POWER_ITERATIONS,
    TOLERANCE,
    DampedGaussNewton,
    Preconditioner,
)
from hydragrad.attribution.gradients import query_point
from hydragrad.attribution.losses_along import LossesAlong, sample_ids
from hydragrad.derivatives import Layout
from hydragrad.errors import QueryError
from hydragrad.execution import ExecutorOption, PartOption, execution_of
from hydragrad.progress import bar
from hydragrad.randomness import preserved
from hydragrad.replay import Recording, Trained, samples_in
from hydragrad.replay.checkpoint_spread import checkpoint_at, spread_steps
from hydragrad.replay.data import data_fingerprint
from hydragrad.replay.histories import trained_layout
from hydragrad.replay.machine import threads
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.runs.kept import Key, tensor_key
from hydragrad.scores import Note, Query, QueryRow, Scores, Solved, numbered, queries_of
from hydragrad.scores.evidence import INFLUENCE
from hydragrad.scores.notes import of_candidates
from hydragrad.scores.solved import not_converged
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import Checkpoints

DAMPING, ITERATIONS, MATRIX = 0.1, 20, 5000
"""Of influence functions in studies and in the ranking of suspects."""
MOST_ITERATIONS = 50
PAYS_FROM = 4
"""Scalars for which the products that make a preconditioner are fewer than those that it saves; docs/costs.md."""


@in_clean_surroundings
def influence(
    run: Recording | Checkpoints,
    query: Query | Sequence[Query],
    *,
    checkpoints: int = 10,
    damping: float | None = None,
    samples: Sequence[int] | Tensor | None = None,
    candidates: Dataset[Any] | None = None,
    iterations: int = MOST_ITERATIONS,
    tolerance: float = TOLERANCE,
    preconditioner: Preconditioner | None = None,
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
        iterations: Conjugate gradient steps, at most. 0: the preconditioner alone, as an approximate inverse.
        tolerance: They end where the residual is this share of the query's gradient; the evidence says where they did.
        preconditioner: What shortens the way of conjugate gradients; it does not change where they lead. "nystrom": an
            approximation of low rank by one product of 32 vectors; "ekfac": one by layers; "none". None takes nystrom
            for 4 scalars or more, for which it pays.
        executor, workers, part: As `hg.counterfactual` takes them, for the checkpoints.
        out: Folder in which the results of single checkpoints lie until all are there; RUN/scores if None. Needed for
            an executor or a slice of checkpoints of a model trained elsewhere.

    Returns:
        Scores with one row a query scalar. `evidence.solved` has damping, residual and iterations of every checkpoint;
        a note of kind "convergence" says where they did not converge, and what to do.

    Raises:
        QueryError: Ids that do not exist, a query that does not depend on the parameters, no checkpoint, a negative
            damping, or numbers for conjugate gradients that make no sense.
        LossError: The loss does not call the model once, or uses the parameters otherwise, too.
        NonFinite: A sample's loss has no finite derivative.
        Unsupported: `run` is neither.
        Unfinished: `part`, and checkpoints of other slices are missing.

    Cost: at every checkpoint, a gradient of the samples, and up to `iterations` Gauss-Newton products of up to 5,000
    training samples a query; 8 more products for the largest eigenvalue, one of 32 vectors for nystrom, about 2 for
    ekfac. Queries are solved for side by side, 32 at a time or as many as fit into 1 GiB; no gradient of a sample is
    stored.

    Source: Koh and Liang, ICML 2017; Martens and Grosse 2015 and George et al. 2018 (EK-FAC).
    """
    execution = execution_of(executor, workers, part)
    over = averaged_over(run, checkpoints, "influence")
    queries, ids = queries_of(query), sample_ids(run, samples, candidates)
    if preconditioner is None:
        scalars = sum(len(query.names()) for query in queries)
        preconditioner = "nystrom" if scalars >= PAYS_FROM or iterations == 0 else "none"
    require_solvable(damping, iterations, tolerance, preconditioner)
    total, parts, answers = torch.zeros((), dtype=torch.float64), list[Influence](), list[_Answer]()
    options = {
        "damping": damping,
        "iterations": iterations,
        "tolerance": tolerance,
        "preconditioner": preconditioner,
    }
    work = _AtCheckpoint(run, over, queries, ids, candidates, options)
    for tensors, facts in in_order(work, len(over), execution, folder_of(run, out), work.key):
        answers.append(_Answer.of(tensors, facts))
        total = total + answers[-1].influence.values
        parts.append(answers[-1].influence)
    solved = [solved_at(name, part, damping is None, tolerance) for name, part in zip(over.called, parts, strict=True)]
    unfinished = not_converged(solved)
    notes = [_note(over, parts, damping is None), *([] if unfinished is None else [unfinished])]
    if candidates is not None:
        notes.append(of_candidates(len(candidates)))  # type: ignore[arg-type]
    return Scores(
        values=total / len(over),
        sample_ids=ids,
        query_names=numbered(answers[-1].names),
        query_values=torch.tensor(answers[-1].values, dtype=torch.float64),  # the last is the trained model
        evidence=over.evidence(run, INFLUENCE, notes, solved),
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
        preconditioner: nystrom, ekfac or none.
        iterations: Of conjugate gradients, the most for a query.
        why_not: Why the preconditioner that was meant could not be had.
    """

    values: Tensor
    damping: float
    residual: float
    products: int
    preconditioner: Preconditioner = "none"
    iterations: int = 0
    why_not: str = ""


class _Answer(NamedTuple):
    """Names and values of some scalars at one checkpoint, and influence on them."""

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
        with preserved():
            matrix = DampedGaussNewton(
                run, layout, at, self._options["damping"], MATRIX, preconditioner=self._options["preconditioner"]
            )
        along = LossesAlong(run, layout, at, self._ids, self._candidates)
        iterations, tolerance = self._options["iterations"], self._options["tolerance"]
        answers = list(_answers(run, layout, at, self._queries, matrix, along, iterations, tolerance))
        one = _together([answer.influence for answer in answers])
        facts = {name: value for name, value in one._asdict().items() if name != "values"}
        values = torch.tensor([value for answer in answers for value in answer.values], dtype=torch.float64)
        names = [name for answer in answers for name in answer.names]
        return {"influence": one.values, "values": values}, {"names": names, "influence": facts}

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
    along = LossesAlong(run, layout, at, samples, candidates)
    with bar("influence functions", len(gradients), unit="queries") as progress:
        one = _influence(run, matrix, along, gradients, iterations, tolerance)
        progress.advance(len(gradients))
    return one


def require_solvable(damping: float | None, iterations: int, tolerance: float, preconditioner: Preconditioner) -> None:
    """Refuse options of `influence` that make no sense.

    Raises:
        QueryError: Says which.
    """
    if preconditioner not in get_args(Preconditioner):
        raise QueryError(
            f"preconditioner must be one of {', '.join(get_args(Preconditioner))}, got {preconditioner!r}."
        )
    if damping is not None and not (math.isfinite(damping) and damping >= 0):
        raise QueryError(f"damping must be finite and not negative, or None to choose it, got {damping}.")
    least = 1 if preconditioner == "none" else 0
    if iterations < least or not 0 <= tolerance < 1:
        raise QueryError(
            f"Conjugate gradients take iterations of 1 or more and a tolerance from 0 to below 1, got {iterations} and "
            f"{tolerance}. Iterations may be 0 with a preconditioner, which then is the inverse."
        )


def solved_at(name: str, part: Influence, chosen: bool, tolerance: float) -> Solved:
    """Evidence of one checkpoint."""
    return Solved(
        at=name,
        damping=part.damping,
        share=DAMPING_SHARE if chosen else None,
        preconditioner=part.preconditioner,
        iterations=part.iterations,
        tolerance=tolerance,
        residual=part.residual,
    )


def _answers(
    run: Trained,
    layout: Layout,
    at: Checkpoint,
    queries: Sequence[Query],
    matrix: DampedGaussNewton,
    along: LossesAlong,
    iterations: int,
    tolerance: float,
) -> Iterator[_Answer]:
    """Scalars of queries, as many at a time as are solved for side by side."""
    rows = (row for query in queries for row in query.rows(query_point(run, layout, Layout({}), at)))
    with bar("influence functions", sum(len(query.names()) for query in queries), unit="queries") as progress:
        while True:
            with preserved():
                some = list(islice(rows, matrix.rows_at_once))
            if not some:
                return
            gradients = torch.stack([row.w_bar for row in some])
            one = _influence(run, matrix, along, gradients, iterations, tolerance)
            yield _Answer(tuple(row.name for row in some), tuple(row.value for row in some), one)
            progress.advance(len(some))


def _influence(
    run: Trained, matrix: DampedGaussNewton, along: LossesAlong, gradients: Tensor, iterations: int, tolerance: float
) -> Influence:
    with preserved():
        solution = matrix.solve(gradients, iterations, tolerance)
    return Influence(
        along(solution.x) / samples_in(run),
        matrix.damping,
        solution.residual,
        solution.products,
        matrix.preconditioner,
        min(iterations, solution.products),
        matrix.why_not,
    )


def _together(parts: Sequence[Influence]) -> Influence:
    """Influence at one checkpoint on all scalars, of influence on some."""
    worst = max(parts, key=lambda part: part.residual)
    return worst._replace(
        values=torch.cat([part.values for part in parts]),
        products=max(part.products for part in parts),
        iterations=max(part.iterations for part in parts),
    )


def query_rows(run: Trained, layout: Layout, at: Checkpoint, queries: Sequence[Query]) -> list[QueryRow]:
    """Values and gradients of the queries' scalars at a checkpoint."""
    point = query_point(run, layout, Layout({}), at)
    with preserved():
        return [row for query in queries for row in query.rows(point)]


def query_gradients(run: Trained, layout: Layout, at: Checkpoint, query: Query) -> Tensor:
    """Gradients of the query's scalars at a checkpoint, (queries, parameters)."""
    return torch.stack([row.w_bar for row in query_rows(run, layout, at, [query])])


def _note(over: AveragedOver, parts: Sequence[Influence], chosen: bool) -> Note:
    amount = in_a_range(part.damping for part in parts)
    if chosen:
        amount += (
            f", which is {DAMPING_SHARE:g} of the largest eigenvalue at each, estimated by {POWER_ITERATIONS} power "
            f"iterations"
        )
    if any(part.iterations for part in parts):
        helped = "" if parts[0].preconditioner == "none" else f" (preconditioner: {parts[0].preconditioner})"
        way = (
            f"Conjugate gradients{helped} left at most {max(part.residual for part in parts):.1g} of a query's "
            f"gradient after up to {max(part.iterations for part in parts)} iterations."
        )
    else:
        way = f"The inverse is that of an approximation of the matrix ({parts[0].preconditioner})."
    text = f"Influence functions, Gauss-Newton, {over.in_words}; damping {amount}. {way}"
    why_not = next((part.why_not for part in parts if part.why_not), "")
    if why_not:
        text += f" The preconditioner can't be had here: {why_not}."
    if over.names and len(over) == 1:
        text += " Several checkpoints of the training predict better than one."
    return Note("influence", text)
