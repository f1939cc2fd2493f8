"""Conjugate gradients: solve A x = b for a symmetric positive definite A that is known by its products alone.

    r = b, d = r, x = 0     alpha = <r, r> / <d, A d>      x += alpha d      r' = r - alpha A d
                            d' = r' + (<r', r'> / <r, r>) d

Several right-hand sides are solved side by side, each by its own steps: they share the products, which cost less
together.

Source: Hestenes and Stiefel, 1952.
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


def conjugate_gradients(times: Callable[[Tensor], Tensor], b: Tensor, *, iterations: int, tolerance: float) -> Solution:
    """Solve A x = b for every row of b, from x = 0.

    Args:
        times: A times every row of some rows, of the type of b.
        b: Right-hand sides, (Q, n).
        iterations: Products with A, at most.
        tolerance: A row ends where its relative residual is this small.

    The vectors are float64 whatever the type of the products, so that the steps add no rounding of their own.
    """
    r = b.double()
    x, d = torch.zeros_like(r), r.clone()
    size = start = r.square().sum(1)
    going, products = torch.arange(len(b), device=b.device), 0
    while products < iterations:
        going = going[size[going] > tolerance**2 * start[going]]
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
        after = size.clone()
        after[going] = r[going].square().sum(1)
        d[going] = r[going] + (after[going] / size[going])[:, None] * d[going]
        size = after
    relative = torch.where(start > 0, size / start, 0).sqrt()
    return Solution(x.to(b), float(relative.max()), products)
