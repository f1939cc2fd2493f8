"""Influence functions: what weights alone show about the samples, without the run that led to them.

Gradient of the sample, inverse damped Gauss-Newton matrix of the training set, gradient of the query, over the number
of samples: sign and unit of a contribution. As a prediction of what removing does to one run they are weak where
training has not converged; next to contributions they add what these do not show about a suspect. Averaged over the
run's checkpoints they predict what networks with other seeds learn from the samples, better than at the trained weights
alone (docs/results.md has the measurements).

Source: Koh and Liang, ICML 2017.
"""

import torch
from torch import Tensor

from hydragrad.attribution.gradients import on_device, query_point
from hydragrad.derivatives import (
    Batch,
    CurvatureProducts,
    Layout,
    LossModule,
    Point,
    directional_derivatives,
    require_one_call,
)
from hydragrad.progress import bar
from hydragrad.randomness import preserved
from hydragrad.replay import Recording
from hydragrad.replay.checkpoint_spread import checkpoint_at, spread_steps
from hydragrad.replay.histories import trained_layout
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.scores import Query

CHUNK = 125
"""Samples in one product: it holds about twice what the backward pass of a query holds, which takes 250."""
DAMPING, ITERATIONS, MATRIX = 0.1, 20, 5000


def influence_functions(
    run: Recording,
    query: Query,
    *,
    damping: float = DAMPING,
    iterations: int = ITERATIONS,
    matrix_samples: int | None = MATRIX,
    checkpoints: int = 1,
) -> Tensor:
    """Influence of every training sample on every scalar of a query, float64 (queries, samples).

    Args:
        run: The recorded run.
        query: The query.
        damping: Added to the matrix's diagonal.
        iterations: Of conjugate gradients, at most.
        matrix_samples: How many training samples the matrix is averaged over, sampled with a fixed seed; all if None.
        checkpoints: Over how many the influence is averaged: those nearest to the ends of so many equal parts of the
            run, the trained weights included. 1: the trained weights alone.

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
        total = total + influence_at(
            run, layout, at, gradients, damping=damping, iterations=iterations, matrix_samples=matrix_samples
        )
    return total / len(steps)


def influence_at(
    run: Recording,
    layout: Layout,
    at: Checkpoint,
    gradients: Tensor,
    *,
    damping: float = DAMPING,
    iterations: int = ITERATIONS,
    matrix_samples: int | None = MATRIX,
) -> Tensor:
    """The same at one checkpoint, of scalars whose gradients (queries, parameters) there are known."""
    matrix = DampedGaussNewton(run, layout, at, damping, matrix_samples)
    directions = []
    with bar("influence functions", len(gradients), unit="queries") as progress:
        for gradient in gradients:
            directions.append(matrix.solve(gradient, iterations))
            progress.advance()
    return losses_along(run, layout, at, torch.stack(directions)) / int(run.manifest.data["length"])


class DampedGaussNewton:
    """The training set's mean Gauss-Newton matrix at some weights in eval mode, plus damping times the identity.

    Args:
        run: Has model, loss and training set.
        layout: Lays out the parameters whose matrix it is.
        at: The weights.
        damping: Added to the diagonal.
        samples: How many training samples the matrix is averaged over, sampled with a fixed seed; all if None.

    Raises:
        LossError: The loss does not call the model once, or uses the parameters otherwise, too.
    """

    def __init__(
        self, run: Recording, layout: Layout, at: Checkpoint, damping: float, samples: int | None = None
    ) -> None:
        problem = LossModule(run.model, run.loss)
        problem.eval()
        self._products = CurvatureProducts(problem, layout, Layout({}), gauss_newton=True)
        self._damping, self._size = damping, layout.size
        length: int = run.manifest.data["length"]
        indices = torch.arange(length)
        if samples is not None and samples < length:
            indices = torch.randperm(length, generator=torch.Generator().manual_seed(0))[:samples]
        self._run, self._indices = run, indices
        self._parameters, self._buffers = on_device(run, at.parameters), on_device(run, at.buffers)
        require_one_call(problem, self._parameters, self._point(indices[:1]))

    def __matmul__(self, vector: Tensor) -> Tensor:
        """Times a vector (parameters,)."""
        product = self._damping * vector
        for part in self._indices.split(CHUNK):
            product += self._products(self._point(part), vector[None], vector.new_zeros(1, 0)).w_bar[0]
        return product

    def solve(self, vector: Tensor, iterations: int) -> Tensor:
        """The inverse times a vector (parameters,), by so many conjugate gradient steps at most."""
        from scipy.sparse.linalg import LinearOperator, cg  # slow to import

        def times(values: object) -> object:
            return (self @ torch.as_tensor(values).to(vector)).cpu().double().numpy()

        operator = LinearOperator((self._size, self._size), times, dtype="float64")
        solution, _ = cg(operator, vector.cpu().double().numpy(), maxiter=iterations, rtol=1e-4)
        return torch.from_numpy(solution).to(vector)

    def _point(self, samples: Tensor) -> Point:
        data = self._run.collate(samples.tolist())
        return Point(self._parameters, self._buffers, Batch(data, len(samples), 0), len(self._indices))


def query_gradients(run: Recording, layout: Layout, at: Checkpoint, query: Query) -> Tensor:
    """Gradients of the query's scalars at a checkpoint, (queries, parameters)."""
    point = query_point(run, layout, Layout({}), at)
    with preserved():
        return torch.stack([row.w_bar for row in query.rows(point)])


def losses_along(run: Recording, layout: Layout, at: Checkpoint, directions: Tensor) -> Tensor:
    """Derivatives of every training sample's loss along directions (queries, parameters), float64 (queries, N)."""
    problem = LossModule(run.model, run.loss)
    problem.eval()
    parameters, buffers = on_device(run, at.parameters), on_device(run, at.buffers)
    length, parts = run.manifest.data["length"], []
    for start in range(0, length, CHUNK):
        indices = range(start, min(length, start + CHUNK))
        batch = Batch(run.collate(indices), len(indices), 0)
        derivatives = directional_derivatives(problem, layout, parameters, buffers, batch, directions, at_once=True)
        parts.append(derivatives.losses_dot.double().cpu())
    return torch.cat(parts, dim=1)
