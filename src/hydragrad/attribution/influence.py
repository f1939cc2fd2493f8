"""Influence functions: what weights alone show about the samples, without the run that led to them.

Gradient of the sample, inverse damped Gauss-Newton matrix of the training set, gradient of the query, over the number
of samples: sign and unit of a contribution. As a prediction of what removing does to one run they are weak where
training has not converged; next to contributions they add what these do not show about a suspect. Averaged over the
run's checkpoints they predict what networks with other seeds learn from the samples, better than at the trained weights
alone (docs/results.md has the measurements).

Source: Koh and Liang, ICML 2017.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hydragrad.attribution.gauss_newton_matrix import CHUNK, DampedGaussNewton
from hydragrad.attribution.gradients import on_device, query_point
from hydragrad.derivatives import Batch, Layout, LossModule, directional_derivatives
from hydragrad.errors import QueryError, Unsupported
from hydragrad.progress import bar
from hydragrad.randomness import preserved
from hydragrad.replay import Recording
from hydragrad.replay.checkpoint_spread import checkpoint_at, spread_steps
from hydragrad.replay.histories import trained_layout
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.scores import Evidence, Note, Query, QueryRow, Scores, checked_samples, numbered, queries_of
from hydragrad.scores.evidence import INFLUENCE
from hydragrad.scores.notes import interrupted
from hydragrad.surroundings import in_clean_surroundings

DAMPING, ITERATIONS, MATRIX = 0.1, 20, 5000


@in_clean_surroundings
def influence(
    run: Recording,
    query: Query | Sequence[Query],
    *,
    checkpoints: int = 10,
    damping: float | None = None,
    samples: Sequence[int] | Tensor | None = None,
) -> Scores:
    """Influence functions, averaged over checkpoints: about the data rather than about this run.

    The values have the sign and the unit of contributions: positive helps. They estimate what models trained anew,
    from other seeds too, would lose without a sample; read the ranking, since their scale is not measured.

    Args:
        run: The recorded run.
        query: A scalar of the model, or several.
        checkpoints: How many checkpoints to average over: those nearest to the ends of so many equal parts of the run,
            the trained weights included. 1: the trained weights alone. A run with fewer checkpoints gives fewer.
        damping: Added to the Gauss-Newton matrix, times the identity. None chooses, at each checkpoint,
            0.01 of the matrix's largest eigenvalue.
        samples: Training samples to score; all if None.

    Returns:
        Scores with one row a query scalar. The evidence's note names the checkpoints and the damping.

    Raises:
        QueryError: Ids that do not exist, a query that does not depend on the parameters, no checkpoint, or a negative
            damping.
        LossError: The loss does not call the model once, or uses the parameters otherwise, too.
        Unsupported: `run` is no Recording.

    Cost: at every checkpoint, a gradient of the samples, and 20 Gauss-Newton products of up to 5,000 training samples
    a query; 8 more products for the largest eigenvalue.

    Source: Koh and Liang, ICML 2017.
    """
    if not isinstance(run, Recording):
        raise Unsupported(
            f"influence takes a recorded run, got {type(run).__name__}. Open it: hg.Recording(path, ...)."
        )
    if checkpoints < 1:
        raise QueryError(f"influence averages over one checkpoint or more, got checkpoints={checkpoints}.")
    if damping is not None and not (math.isfinite(damping) and damping >= 0):
        raise QueryError(f"damping must be finite and not negative, or None to choose it, got {damping}.")
    queries, ids = queries_of(query), checked_samples(samples, run.manifest.data["length"])
    layout, steps = trained_layout(run), spread_steps(run, checkpoints)
    total, dampings, rows = torch.zeros((), dtype=torch.float64), [], list[QueryRow]()
    for step in steps:
        at = checkpoint_at(run, step)
        rows = query_rows(run, layout, at, queries)
        gradients = torch.stack([row.w_bar for row in rows])
        one = influence_at(run, layout, at, gradients, damping=damping, samples=ids)
        total = total + one.values
        dampings.append(one.damping)
    return Scores(
        values=total / len(steps),
        sample_ids=ids,
        query_names=numbered(row.name for row in rows),
        query_values=torch.tensor([row.value for row in rows], dtype=torch.float64),  # the last step is the run's end
        evidence=_evidence(run, steps, dampings, chosen=damping is None),
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
    """Influence at one checkpoint, float64 (queries, samples), and the damping of its matrix."""

    values: Tensor
    damping: float


def influence_at(
    run: Recording,
    layout: Layout,
    at: Checkpoint,
    gradients: Tensor,
    *,
    damping: float | None = DAMPING,
    iterations: int = ITERATIONS,
    matrix_samples: int | None = MATRIX,
    samples: Tensor | None = None,
) -> Influence:
    """The same at one checkpoint, of scalars whose gradients (queries, parameters) there are known.

    Args:
        damping: As for `influence`.
        samples: Ids of the training samples; all if None.
    """
    length = int(run.manifest.data["length"])
    matrix = DampedGaussNewton(run, layout, at, damping, matrix_samples)
    directions = []
    with bar("influence functions", len(gradients), unit="queries") as progress:
        for gradient in gradients:
            directions.append(matrix.solve(gradient, iterations))
            progress.advance()
    return Influence(losses_along(run, layout, at, torch.stack(directions), samples) / length, matrix.damping)


def query_rows(run: Recording, layout: Layout, at: Checkpoint, queries: Sequence[Query]) -> list[QueryRow]:
    """Values and gradients of the queries' scalars at a checkpoint."""
    point = query_point(run, layout, Layout({}), at)
    with preserved():
        return [row for query in queries for row in query.rows(point)]


def query_gradients(run: Recording, layout: Layout, at: Checkpoint, query: Query) -> Tensor:
    """Gradients of the query's scalars at a checkpoint, (queries, parameters)."""
    return torch.stack([row.w_bar for row in query_rows(run, layout, at, [query])])


def losses_along(
    run: Recording, layout: Layout, at: Checkpoint, directions: Tensor, samples: Tensor | None = None
) -> Tensor:
    """Derivatives of the losses of training samples, all if None, along directions (queries, parameters).

    Returns:
        float64 (queries, samples).
    """
    problem = LossModule(run.model, run.loss)
    problem.eval()
    parameters, buffers = on_device(run, at.parameters), on_device(run, at.buffers)
    parts = []
    wanted = torch.arange(int(run.manifest.data["length"])) if samples is None else samples
    for ids in wanted.split(CHUNK):
        batch = Batch(run.collate(ids.tolist()), len(ids), 0)
        derivatives = directional_derivatives(problem, layout, parameters, buffers, batch, directions, at_once=True)
        parts.append(derivatives.losses_dot.double().cpu())
    return torch.cat(parts, dim=1)


def _evidence(run: Recording, steps: Sequence[int], dampings: Sequence[float], *, chosen: bool) -> Evidence:
    notes = [_note(steps, dampings, chosen)]
    if not run.completed:
        notes.append(interrupted(len(run.steps)))
    return Evidence(route=INFLUENCE, steps=0, completed=run.completed, notes=tuple(notes))


def _note(steps: Sequence[int], dampings: Sequence[float], chosen: bool) -> Note:
    where = (
        "at the trained weights"
        if len(steps) == 1
        else f"averaged over {len(steps)} checkpoints (after steps {', '.join(f'{step:,}' for step in steps)})"
    )
    low, high = min(dampings), max(dampings)
    amount = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
    relative = ", a share of the largest eigenvalue at each" if chosen else ""
    return Note("influence", f"Influence functions, Gauss-Newton, {where}; damping {amount}{relative}.")
