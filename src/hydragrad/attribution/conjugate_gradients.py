"""Conjugate gradients: solve A x = b for a symmetric positive definite A that is known by its products alone.

    r_0 = b, d_0 = r_0      alpha = <r, r> / <d, A d>      x += alpha d      r' = r - alpha A d
                            d' = r' + (<r', r'> / <r, r>) d

Source: Hestenes and Stiefel, 1952.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Solution(NamedTuple):
    """What the steps led to.

    Attributes:
        x: The solution, of the type of b.
        residual: |b - A x| / |b|, as the recurrence has it; 0 is exact.
        products: How many products with A it took.
    """

    x: Tensor
    residual: float
    products: int


def conjugate_gradients(times: Callable[[Tensor], Tensor], b: Tensor, *, iterations: int, tolerance: float) -> Solution:
    """Solve A x = b from x = 0.

    Args:
        times: A times a vector of the type of b.
        b: The right-hand side, (n,).
        iterations: Products with A, at most.
        tolerance: Ends where the relative residual is this small.

    The vectors are float64 whatever the type of the products, so that the steps add no rounding of their own.
    """
    r = b.double()
    x, d = torch.zeros_like(r), r.clone()
    size = start = float(r @ r)
    products = 0
    while products < iterations and size > tolerance**2 * start:
        along = times(d.to(b)).double()
        products += 1
        curved = float(d @ along)
        if not curved > 0:  # zero or, by rounding, below: nothing is left to gain along d
            break
        x += (size / curved) * d
        r -= (size / curved) * along
        before, size = size, float(r @ r)
        d = r + (size / before) * d
    return Solution(x.to(b), (size / start) ** 0.5 if start else 0.0, products)
