"""A fast path is taken only where it agrees with the safe one.

The safe path is valid for any model; a fast one needs something of it (batching rules, layers with rules, samples that
are not coupled) that cannot be read off in every case. So both are evaluated on a small part of the work, once, and
compared. There is one rule for how near they must be, and one list of errors that mean "not for this model"; any other
error is a bug, and is raised.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hydragrad.derivatives.layers.applicable import HooksInapplicable

FLOAT64_TOLERANCE, FLOAT32_TOLERANCE = 1e-8, 1e-3
"""How far two ways to the same derivative may be apart, relative to its norm, by the precision that it went through.

Both leave room for the rounding of deep models, whose sums run in another order, and are far below what a wrong rule
gives: a part of the derivative itself. A coarser precision gets no more room than float32 does.
"""

FAST_PATH_ERRORS = (RuntimeError, NotImplementedError, ValueError, HooksInapplicable)
"""What a fast path raises where it is not for this model: no batching rule, no layer rule, no gradient."""


def reason(error: Exception) -> str:
    """The first line of what an error says, without the full stop."""
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(". ")


class Comparison(NamedTuple):
    """A fast path held to the safe one.

    Attributes:
        values: What the fast path gave; empty where it raised.
        why_not: Why it is not to be trusted; None where it agrees.
    """

    values: tuple[Tensor, ...]
    why_not: str | None

    @property
    def trusted(self) -> bool:
        """Whether the fast path agrees."""
        return self.why_not is None


def compare_with_safe(
    fast: Callable[[], Sequence[Tensor]], safe: Sequence[Tensor], *, tolerance: float | None = None
) -> Comparison:
    """Run a fast path and hold everything that it gives to what the safe path gave.

    Args:
        fast: Gives the same tensors as the safe path, in the same order; may raise one of FAST_PATH_ERRORS.
        safe: What the safe path gave.
        tolerance: As in `agrees`.
    """
    try:
        values = tuple(fast())
    except FAST_PATH_ERRORS as error:
        return Comparison((), reason(error))
    pairs = list(zip(values, safe, strict=True))
    if all(agrees(*pair, tolerance=tolerance) for pair in pairs):
        return Comparison(values, None)
    return Comparison(values, f"it differs from the safe path by up to {_largest_difference(pairs):.1e} of its size")


def agrees(fast: Tensor, safe: Tensor, *, tolerance: float | None = None) -> bool:
    """Whether two ways to the same derivative agree, in the norm of all of it; NaN never does.

    Args:
        fast: By the fast path.
        safe: By the safe path, of the same shape.
        tolerance: Of the difference's norm, relative to the safe norm; None is that of `safe`'s precision.
    """
    if tolerance is None:
        tolerance = tolerance_of(safe.dtype)
    return bool((fast - safe).norm() <= tolerance * safe.norm())


def tolerance_of(*dtypes: torch.dtype) -> float:
    """The tolerance of values that went through all of these precisions: that of the coarsest."""
    return FLOAT64_TOLERANCE if set(dtypes) == {torch.float64} else FLOAT32_TOLERANCE


def _largest_difference(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Relative to the norm of the safe value."""
    return max(float((fast - safe).norm() / safe.norm()) for fast, safe in pairs if safe.numel())
