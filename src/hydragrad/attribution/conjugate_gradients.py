"""Conjugate gradients: solve A x = b for a symmetric positive definite A that is known by its products alone.

    r = b, z = M r, d = z, x = 0     alpha = <r, z> / <d, A d>      x += alpha d      r' = r - alpha A d
                                     z' = M r'                      d' = z' + (<r', z'> / <r, z>) d

M is the identity, or approximates the inverse of A: then fewer steps leave the same residual. The solution is that of A
whatever M is, as long as M is symmetric and positive definite.

Several right-hand sides are solved side by side, each by its own steps: they share the products, which cost less
together.

Source: Hestenes and Stiefel, 1952; Golub and Van Loan, Matrix Computations, section 11.5 (preconditioning).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Solution(NamedTuple):
    """What the steps led to.

    Attributes:
        x: The solutions, of the type of b, (Q, n).
        residual: The largest |b - A x| / |b| of the rows, as the recurrence has it; 0 is exact.
        products: How many products with A the rows took, at most.
    """

    x: Tensor
    residual: float
    products: int


def conjugate_gradients(
    times: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    iterations: int,
    tolerance: float,
    precondition: Callable[[Tensor], Tensor] | None = None,
) -> Solution:
    """Solve A x = b for every row of b, from x = 0.

    Args:
        times: A times every row of some rows, of the type of b.
        b: Right-hand sides, (Q, n).
        iterations: Products with A, at most.
        tolerance: A row ends where its relative residual is this small.
        precondition: M times every row of some rows, of the type of b; the identity if None.

    The vectors are float64 whatever the type of the products, so that the steps add no rounding of their own.
    """

    def preconditioned(r: Tensor) -> Tensor:
        return r if precondition is None else precondition(r.to(b)).double()

    r = b.to(torch.float64, copy=True)  # is changed in place
    start = r.square().sum(1)
    x, d = torch.zeros_like(r), preconditioned(r).clone()
    left, size = start.clone(), (r * d).sum(1)
    going, products = torch.arange(len(b), device=b.device), 0
    while products < iterations:
        going = going[left[going] > tolerance**2 * start[going]]
        if not len(going):
            break
        along = times(d[going].to(b)).double()
        products += 1
        curved = (d[going] * along).sum(1)
        # Where it is zero or, by rounding, below, nothing is left to gain along d.
        going, along, curved = going[curved > 0], along[curved > 0], curved[curved > 0]
        alpha = (size[going] / curved)[:, None]
        x[going] += alpha * d[going]
        r[going] -= alpha * along
        left[going] = r[going].square().sum(1)
        z = preconditioned(r[going])
        after = (r[going] * z).sum(1)
        d[going] = z + (after / size[going])[:, None] * d[going]
        size[going] = after
    relative = torch.where(start > 0, left / start, 0).sqrt()
    return Solution(x.to(b), float(relative.max()), products)
