"""The largest eigenvalues of a positive matrix and their eigenvectors, roughly, by one block of products (Nystrom).

    Omega orthonormal (n x k), random     Y = A Omega     A ~ Y (Omega' Y)^-1 Y' = U diag(Lambda) U'

Unlike an approximation by layers it sees what layers share: of a trained network few directions are much more curved
than the rest, and each goes through all layers. What is left out is no larger than the smallest of the eigenvalues, and
counts as that in the inverse.

Source: Frangella, Tropp and Udell 2023 (Nystrom preconditioning).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """U diag(Lambda) U'.

    Attributes:
        vectors: U, one eigenvector a row, (k, n).
        values: Lambda, the largest first, (k,).
    """

    vectors: Tensor
    values: Tensor

    def inverse(self, rows: Tensor, damping: float) -> Tensor:
        """About the inverse of the matrix plus damping times the identity, times every row, (Q, n)."""
        if not len(self.values):
            return rows / damping if damping else rows
        rest = float(self.values[-1]) + damping
        parts = rows @ self.vectors.T
        return rows / rest + (parts * (1 / (self.values + damping) - 1 / rest)) @ self.vectors


def low_rank(times: Callable[[Tensor], Tensor], size: int, rank: int, like: Tensor) -> LowRank:
    """Approximate a symmetric positive matrix that is known by its products.

    Args:
        times: The matrix times every row of some rows.
        size: Of the matrix.
        rank: Of the approximation, at most.
        like: Gives dtype and device.
    """
    start = torch.randn(size, min(rank, size), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    omega = torch.linalg.qr(start).Q.T.to(like)
    y = times(omega).double()
    core = omega.double() @ y.T
    small = torch.finfo(like.dtype).eps
    sizes, basis = torch.linalg.eigh((core + core.T) / 2)
    real = sizes > 10 * small * sizes.abs().max()
    b = (basis[:, real] / sizes[real].sqrt()).T @ y
    values, turned = torch.linalg.eigh(b @ b.T)
    real = values > 10 * small * values.max() if len(values) else values > 0
    values, turned = values[real].flip(0), turned[:, real].flip(1)
    return LowRank(((turned / values.sqrt()).T @ b).to(like), values.to(like))
