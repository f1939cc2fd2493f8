"""Derivatives held to the gradient that trained.

A derivative is evaluated in other ways than training evaluated it: in forward mode, by hooks, on a copy of the model.
One identity ties every way to training, at every step and along any direction u:

    sum_i c_i <g_i, u> = <G, u>

with the coefficient c_i of sample i's loss, its gradient g_i, and the gradient G that the backward pass left in
`.grad`. The left side is what every route computes anyway.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hydragrad.derivatives.layers.applicable import HooksInapplicable

FLOAT64_GAP, FLOAT32_GAP = 1e-7, 1e-2
"""Largest relative gap by precision. Rounding leaves far less; what is not the same function leaves a part of the
gradient itself."""

ROUNDINGS = 100
"""Roundings of the norms' product that a sum may be off by where its terms cancel."""


class NotHeld(HooksInapplicable):
    """Derivatives depart from the gradient that trained."""


@dataclass
class Held:
    """How often something was compared, and the largest relative gap.

    Attributes:
        times: Comparisons.
        gap: Relative to the sum of the terms' sizes.
    """

    times: int = 0
    gap: float = 0.0

    def note(self, gap: float) -> None:
        """Count a comparison."""
        self.times, self.gap = self.times + 1, max(self.gap, gap)

    def hold(
        self, terms: Tensor, gradient: Tensor, directions: Tensor, what: str, allowed: float | None = None
    ) -> None:
        """Compare sums of terms with a gradient along directions.

        Args:
            terms: Directional derivatives with their coefficients, (Q, samples).
            gradient: What they add up to, (parameters,).
            directions: (Q, parameters).
            what: Says in the error what the terms are.
            allowed: The largest gap; that of rounding if None.

        Raises:
            NotHeld: They differ by more than rounding.
        """
        gap = largest_gap(terms, directions @ gradient, gradient.norm() * directions.norm(dim=-1))
        self.note(gap)
        if not gap <= (gap_allowed(terms.dtype, gradient.dtype) if allowed is None else allowed):
            raise NotHeld(f"{what} differ from the gradient that trained by {gap:.1e} of their size")


def largest_gap(terms: Tensor, expected: Tensor, sizes: Tensor) -> float:
    """Largest gap between sums and what they should be, relative to what is added up; infinite where terms are NaN.

    Args:
        terms: (Q, samples).
        expected: (Q,).
        sizes: Of the vectors whose products these are, (Q,); they bound what rounding does.
    """
    eps = torch.finfo(terms.dtype).eps
    share = ROUNDINGS * eps / gap_allowed(terms.dtype)
    kept = torch.stack([terms.sum(-1), terms.abs().sum(-1), expected.to(terms), sizes.to(terms)]).T.tolist()
    largest = 0.0
    for total, added, sought, size in kept:  # few numbers: sooner compared one by one than by a dozen kernels
        if not (math.isfinite(sought) and math.isfinite(size)):
            continue  # What overflows shows by itself.
        difference = abs(total - sought)
        gap = difference / (added + abs(sought) + share * size) if difference else 0.0
        if math.isnan(gap):
            return math.inf
        largest = max(largest, gap)
    return largest


def gap_allowed(*dtypes: torch.dtype) -> float:
    """The largest gap of values of these precisions."""
    return FLOAT64_GAP if set(dtypes) == {torch.float64} else FLOAT32_GAP
