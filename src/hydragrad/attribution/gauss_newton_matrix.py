"""The damped Gauss-Newton matrix of a training set at some weights: products, solutions, largest eigenvalue."""

from collections.abc import Iterator
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor, nn

from hydragrad.attribution.conjugate_gradients import Solution, conjugate_gradients
from hydragrad.attribution.gradients import on_device
from hydragrad.attribution.nystrom import LowRank, low_rank
from hydragrad.derivatives import (
    Batch,
    CurvatureProducts,
    Eigenbasis,
    Layout,
    LossModule,
    Point,
    ReverseProducts,
    fastest_products,
    fit_ekfac,
    require_one_call,
)
from hydragrad.derivatives.curvature.held_products import HeldProducts
from hydragrad.derivatives.curvature.products import Products
from hydragrad.derivatives.moving import random_direction
from hydragrad.derivatives.trusted import FAST_PATH_ERRORS, reason
from hydragrad.errors import HydragradError, LossError, NonFinite, Unsupported
from hydragrad.replay import Trained, samples_in
from hydragrad.runs.checkpoints import Checkpoint

CHUNK = 125
"""Samples in one product: it holds about twice what the backward pass of a query holds, which takes 250."""
DAMPING_SHARE = 0.01
"""The damping that is chosen where none is named, as a share of the matrix's largest eigenvalue."""
COMPARED = 8
"""Samples at which ways to a derivative are compared."""
ROWS, ROW_BYTES = 32, 1 << 30
"""Vectors that are solved for side by side, and bytes of them; a step holds five float64 copies of each."""
DRAWS, BATCHES = 512, 8
"""Of gradients at outputs for the preconditioner, and batches that they come in, at least, where samples are few."""
Preconditioner = Literal["nystrom", "ekfac", "none"]
"""What shortens the way of conjugate gradients: an approximate inverse of low rank, one layer by layer, or nothing."""
Approximation = LowRank | Eigenbasis
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
        preconditioner: For `solve`; does not change what it converges to.

    Attributes:
        damping: Added to the diagonal.
        why_not: Why the preconditioner that was named can't be had; empty where it can.

    Raises:
        LossError: The loss does not call the model once, or uses the parameters otherwise, too; or no damping is
            named and the matrix is zero.
        NonFinite: The loss of a sample is NaN or infinite.
        Unsupported: An operation has neither a forward-mode rule nor a second backward pass.
    """

    def __init__(
        self,
        run: Trained,
        layout: Layout,
        at: Checkpoint,
        damping: float | None,
        samples: int | None = None,
        *,
        preconditioner: Preconditioner = "none",
    ) -> None:
        problem = LossModule(run.model, run.loss)
        problem.eval()
        self._several: Products | None = None
        self._layout, self._preconditioner, self.why_not = layout, preconditioner, ""
        length = samples_in(run)
        indices = torch.arange(length)
        if samples is not None and samples < length:
            indices = torch.randperm(length, generator=torch.Generator().manual_seed(0))[:samples]
        self._run, self._indices = run, indices
        self._parameters, self._buffers = on_device(run, at.parameters), on_device(run, at.buffers)
        require_one_call(problem, self._parameters, self._point(indices[:1]))
        self._problem = problem
        self._require_finite(indices[:COMPARED])
        self._products = _trusted_products(problem, layout, self._point(indices[:COMPARED]))
        self.damping = 0.0
        self.damping = self._choose_damping() if damping is None else damping

    def __matmul__(self, vector: Tensor) -> Tensor:
        """Times a vector (parameters,)."""
        return self.times(vector[None])[0]

    def times(self, vectors: Tensor) -> Tensor:
        """Times every row of some vectors (Q, parameters), in one pass where the model allows it."""
        return self.damping * vectors + self._undamped(vectors)

    def _undamped(self, vectors: Tensor) -> Tensor:
        product = torch.zeros_like(vectors)
        none = vectors.new_zeros(len(vectors), 0)  # no running statistics
        for part in self._indices.split(CHUNK):
            point = self._point(part)
            if len(vectors) > 1 and self._several is None and isinstance(self._products, CurvatureProducts):
                self._several = fastest_products(self._products, point, vectors, none)
            products = self._products if len(vectors) == 1 or self._several is None else self._several
            product += products(point, vectors, none).w_bar
            if not product.isfinite().all():
                self._require_finite(part)
        return product

    def solve(self, vectors: Tensor, iterations: int, tolerance: float = TOLERANCE) -> Solution:
        """The inverse times every row of some vectors (Q, parameters).

        Args:
            vectors: Right-hand sides.
            iterations: Conjugate gradient steps, at most; with 0 the preconditioner is the answer, and what it leaves
                is measured.
            tolerance: They end where the residual is this share of the right-hand side.
        """
        parts = [self._solved(rows, iterations, tolerance) for rows in vectors.split(self.rows_at_once)]
        return Solution(
            torch.cat([part.x for part in parts]),
            max(part.residual for part in parts),
            max(part.products for part in parts),
        )

    @property
    def rows_at_once(self) -> int:
        """Right-hand sides that are solved for side by side."""
        return max(1, min(ROWS, ROW_BYTES // (5 * 8 * self._layout.size)))

    @cached_property
    def approximation(self) -> Approximation | None:
        """What the preconditioner is made of, over the same samples; None where it can't be had, or none is meant.

        Cost: of EK-FAC, two forward and two backward passes over the samples, and eigendecompositions of every layer's
        sides; of Nystrom, a product with as many rows as are solved for side by side.
        """
        if self._preconditioner == "none":
            return None
        make = self._by_layers if self._preconditioner == "ekfac" else self._of_low_rank
        try:
            return make()
        except HydragradError:
            raise
        except FAST_PATH_ERRORS as error:
            self.why_not = reason(error)
            return None

    @property
    def preconditioner(self) -> Preconditioner:
        """The one that is had."""
        return "none" if self.approximation is None else self._preconditioner

    def _of_low_rank(self) -> LowRank:
        like = next(iter(self._parameters.values()))
        return low_rank(self._undamped, self._layout.size, self.rows_at_once, like)

    def _by_layers(self) -> Eigenbasis:
        draws = max(1, min(BATCHES, -(-DRAWS // len(self._indices))))
        where = (self._problem, self._layout, self._parameters, self._buffers)
        basis = fit_ekfac(*where, self._batches, draws=draws)
        if not basis.is_finite:
            for part in self._indices.split(CHUNK):
                self._require_finite(part)
            raise ValueError("its numbers are not finite")
        return basis

    def _solved(self, rows: Tensor, iterations: int, tolerance: float) -> Solution:
        approximation = self.approximation
        inverse = None if approximation is None else partial(approximation.inverse, damping=self.damping)
        if iterations:
            return conjugate_gradients(
                self.times, rows, iterations=iterations, tolerance=tolerance, precondition=inverse
            )
        if inverse is None:
            raise Unsupported(
                f"iterations=0 takes {self._preconditioner} alone, and it can't be had: {self.why_not}. Take conjugate "
                f"gradients: iterations=20."
            )
        x = inverse(rows)
        left = (rows - self.times(x)).double().norm(dim=1) / rows.double().norm(dim=1).clamp(min=1e-300)
        return Solution(x, float(left.max()), 1)

    def _batches(self) -> Iterator[Batch]:
        size = max(1, min(CHUNK, len(self._indices) // BATCHES))
        return (self._point(part).batch for part in self._indices.split(size))

    def largest_eigenvalue(self, iterations: int = POWER_ITERATIONS) -> float:
        """The largest eigenvalue, from below, by power iterations from a fixed start."""
        like = next(iter(self._parameters.values()))
        start = torch.randn(self._layout.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        vector, value = (start / start.norm()).to(like), 0.0
        for _ in range(iterations):
            product = self @ vector
            value = float(product.norm())
            if value == 0:
                break
            vector = product / value
        return value

    def _require_finite(self, samples: Tensor) -> None:
        """Refuse samples whose losses are not finite.

        Raises:
            NonFinite: Names them.
        """
        with torch.no_grad():
            losses, _ = self._problem.at(self._parameters, self._buffers, self._point(samples).batch)
        wrong = samples[~losses.isfinite().cpu()].tolist()
        if wrong:
            raise NonFinite(
                f"The losses of training samples must be finite; those of {wrong[:5]} are not. Repair these samples, "
                f"or leave them out of the data set."
            )

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


def _trusted_products(problem: LossModule, layout: Layout, point: Point) -> Products:
    """Products by forward mode, or by reverse mode alone: the first that is symmetric at a few samples.

    A rule that is wrong in one mode, or a backward pass without a derivative, gives products that are not.

    Raises:
        Unsupported: Neither is.
    """
    like = next(iter(point.parameters.values()))
    directed = _directed(problem, layout, like)
    start = random_direction(layout, point.parameters, like, torch.Generator().manual_seed(0)) * directed
    why = ""
    for kind in (CurvatureProducts, ReverseProducts):
        make = partial(kind, weights=layout, statistics=Layout({}), gauss_newton=True)
        try:
            held = HeldProducts(problem, layout, Layout({}), directed, make, gauss_newton=True)
            held.hold(problem, point, start, like.new_zeros(0), seed=1)
        except HydragradError:
            raise
        except FAST_PATH_ERRORS as error:
            why = why or reason(error)
        else:
            return make(problem)
    raise Unsupported(
        f"Gauss-Newton products need the derivative of every operation, forward or twice backward; the model has one "
        f"without: {why}. Write it of torch's own operations, or take hg.tracin."
    )


def _directed(problem: LossModule, layout: Layout, like: Tensor) -> Tensor:
    """1 for entries that a gradient may have a part along, 0 for padding rows of embeddings."""
    ones = {name: torch.ones(layout.shapes[name]).to(like) for name in layout.names}
    for prefix, module in problem.model.named_modules(remove_duplicate=False):
        name = f"{prefix}.weight".lstrip(".")
        if isinstance(module, nn.Embedding) and module.padding_idx is not None and name in ones:
            ones[name][module.padding_idx] = 0
    return layout.flatten(ones, like)
