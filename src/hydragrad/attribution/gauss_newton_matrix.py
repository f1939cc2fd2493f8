"""The damped Gauss-Newton matrix of a training set at some weights: products, solutions, largest eigenvalue."""

import torch
from torch import Tensor

from hydragrad.attribution.conjugate_gradients import Solution, conjugate_gradients
from hydragrad.attribution.gradients import on_device
from hydragrad.derivatives import (
    Batch,
    CurvatureProducts,
    Layout,
    LossModule,
    Point,
    fastest_products,
    require_one_call,
)
from hydragrad.derivatives.curvature.products import Products
from hydragrad.errors import LossError
from hydragrad.replay import Trained, samples_in
from hydragrad.runs.checkpoints import Checkpoint

CHUNK = 125
"""Samples in one product: it holds about twice what the backward pass of a query holds, which takes 250."""
DAMPING_SHARE = 0.01
"""The damping that is chosen where none is named, as a share of the matrix's largest eigenvalue."""
ROWS = 32
"""Vectors that are solved for side by side; a step holds four float64 copies of each."""
TOLERANCE = 1e-4
"""Relative residual at which conjugate gradients end."""
POWER_ITERATIONS = 8
"""For the largest eigenvalue, of which damping needs the order of magnitude."""


class DampedGaussNewton:
    """The training set's mean Gauss-Newton matrix at some weights in eval mode, plus damping times the identity.

    Args:
        run: A recorded run, or checkpoints of a model trained elsewhere: has model, loss and training set.
        layout: Lays out the parameters whose matrix it is.
        at: The weights.
        damping: Added to the diagonal; None for `DAMPING_SHARE` of the largest eigenvalue.
        samples: How many training samples the matrix is averaged over, sampled with a fixed seed; all if None.

    Attributes:
        damping: Added to the diagonal.

    Raises:
        LossError: The loss does not call the model once, or uses the parameters otherwise, too; or no damping is
            named and the matrix is zero.
    """

    def __init__(
        self, run: Trained, layout: Layout, at: Checkpoint, damping: float | None, samples: int | None = None
    ) -> None:
        problem = LossModule(run.model, run.loss)
        problem.eval()
        self._several: Products | None = None
        self._products = CurvatureProducts(problem, layout, Layout({}), gauss_newton=True)
        self._size = layout.size
        length = samples_in(run)
        indices = torch.arange(length)
        if samples is not None and samples < length:
            indices = torch.randperm(length, generator=torch.Generator().manual_seed(0))[:samples]
        self._run, self._indices = run, indices
        self._parameters, self._buffers = on_device(run, at.parameters), on_device(run, at.buffers)
        require_one_call(problem, self._parameters, self._point(indices[:1]))
        self.damping = 0.0
        self.damping = self._choose_damping() if damping is None else damping

    def __matmul__(self, vector: Tensor) -> Tensor:
        """Times a vector (parameters,)."""
        return self.times(vector[None])[0]

    def times(self, vectors: Tensor) -> Tensor:
        """Times every row of some vectors (Q, parameters), in one pass where the model allows it."""
        product = self.damping * vectors
        none = vectors.new_zeros(len(vectors), 0)  # no running statistics
        for part in self._indices.split(CHUNK):
            point = self._point(part)
            if len(vectors) > 1 and self._several is None:
                self._several = fastest_products(self._products, point, vectors, none)
            products = self._products if len(vectors) == 1 or self._several is None else self._several
            product += products(point, vectors, none).w_bar
        return product

    def solve(self, vectors: Tensor, iterations: int, tolerance: float = TOLERANCE) -> Solution:
        """The inverse times every row of some vectors (Q, parameters), by so many conjugate gradient steps at most."""
        parts = [
            conjugate_gradients(self.times, rows, iterations=iterations, tolerance=tolerance)
            for rows in vectors.split(ROWS)
        ]
        return Solution(
            torch.cat([part.x for part in parts]),
            max(part.residual for part in parts),
            max(part.products for part in parts),
        )

    def largest_eigenvalue(self, iterations: int = POWER_ITERATIONS) -> float:
        """The largest eigenvalue, from below, by power iterations from a fixed start."""
        like = next(iter(self._parameters.values()))
        start = torch.randn(self._size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        vector, value = (start / start.norm()).to(like), 0.0
        for _ in range(iterations):
            product = self @ vector
            value = float(product.norm())
            if value == 0:
                break
            vector = product / value
        return value

    def _choose_damping(self) -> float:
        damping = DAMPING_SHARE * self.largest_eigenvalue()
        if damping == 0:
            raise LossError(
                "The Gauss-Newton matrix of the training set is zero, so no damping can be chosen relative to it. "
                "Give damping= a positive number."
            )
        return damping

    def _point(self, samples: Tensor) -> Point:
        data = self._run.collate(samples.tolist())
        return Point(self._parameters, self._buffers, Batch(data, len(samples), 0), len(self._indices))
