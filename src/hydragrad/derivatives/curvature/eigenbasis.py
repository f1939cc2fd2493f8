"""A positive matrix that is diagonal in a basis of Kronecker form, layer by layer: the inverse of it, damped.

    block of a weight W (o x i, with the bias as a further column):   (Q_G (x) Q_A) diag(Lambda) (Q_G (x) Q_A)'
    any other parameter:                                              diag(Lambda)

Source: George et al., NeurIPS 2018 (EK-FAC).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR = 1e-6
"""Of eigenvalues, as a share of the largest, where nothing is added to them."""


@dataclass(frozen=True)
class Block:
    """The part of the matrix that belongs to one parameter, or to a layer's weight and bias.

    Attributes:
        spans: Where the parameters lie in a flat vector; the second one, if any, is the bias.
        eigenvalues: (outputs, inputs), with a further input for the bias; of parameters without factors (1, numbers).
        left, right: Bases of outputs and inputs, one eigenvector a column; None for the parameters' own.
    """

    spans: tuple[slice, ...]
    eigenvalues: Tensor
    left: Tensor | None = None
    right: Tensor | None = None

    def take(self, vectors: Tensor) -> Tensor:
        """Their part as matrices, (Q, outputs, inputs)."""
        rows, _ = self.eigenvalues.shape
        weight = vectors[:, self.spans[0]].reshape(len(vectors), rows, -1)
        return weight if len(self.spans) == 1 else torch.cat([weight, vectors[:, self.spans[1], None]], 2)

    def put(self, vectors: Tensor, matrices: Tensor) -> None:
        """The same back into vectors, in place."""
        if len(self.spans) == 2:
            vectors[:, self.spans[1]] = matrices[..., -1]
            matrices = matrices[..., :-1]
        vectors[:, self.spans[0]] = matrices.flatten(1)

    def rotated(self, matrices: Tensor, *, back: bool = False) -> Tensor:
        """Matrices (..., outputs, inputs) in the basis, or back from it."""
        left, right = self.left, self.right
        if left is not None:
            matrices = (left if back else left.T) @ matrices
        if right is not None:
            matrices = matrices @ (right.T if back else right)
        return matrices


@dataclass(frozen=True)
class Eigenbasis:
    """All blocks; parameters of the flat vector that no block has do not count.

    Attributes:
        blocks: Each over other parameters.
    """

    blocks: tuple[Block, ...]

    def inverse(self, vectors: Tensor, damping: float) -> Tensor:
        """The inverse of the matrix plus damping times the identity, times every row of vectors (Q, parameters)."""
        floor = max(damping, FLOOR * self.largest)
        return self._scaled(vectors, lambda eigenvalues: 1 / (eigenvalues + floor))

    def times(self, vectors: Tensor) -> Tensor:
        """The matrix times every row of vectors (Q, parameters)."""
        return self._scaled(vectors, lambda eigenvalues: eigenvalues)

    @property
    def is_finite(self) -> bool:
        """Whether all its numbers are."""
        return all(
            bool(part.isfinite().all())
            for block in self.blocks
            for part in (block.eigenvalues, block.left, block.right)
            if part is not None
        )

    @property
    def largest(self) -> float:
        """The largest eigenvalue."""
        return max(float(block.eigenvalues.max()) for block in self.blocks)

    def _scaled(self, vectors: Tensor, factor: Callable[[Tensor], Tensor]) -> Tensor:
        out = torch.zeros_like(vectors)
        for block in self.blocks:
            rotated = block.rotated(block.take(vectors)) * factor(block.eigenvalues)
            block.put(out, block.rotated(rotated, back=True))
        return out
