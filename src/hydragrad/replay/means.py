"""Over what the losses of a step are averaged, and what is left of that average without some samples.

A step's loss is sum_i c_i l_i with the recorded coefficients c. Where it is a mean with weights v (all equal, class
weights, or numbers of tokens), the mean with sample weights a is

    L(a) = V / A * sum_i c_i a_i l_i,    V = sum_i v_i,    A = sum_i v_i a_i,

so that the others' share grows where a sample's falls: with a in {0, 1} it is the mean over the rest. Its derivative by
a_i is c'_i (gradient of l_i) - v_i / A * sum_j c'_j a_j (gradient of l_j) with c' = c V / A. V and A are sums over what
the mean is over: one forward pass, or all those of a step. A sum has no such A, and its samples are weighted as always.
A mean over nothing is taken to be 0: the step has no gradient there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hydragrad.derivatives.part_losses import TERMS
from hydragrad.errors import QueryError, Unsupported
from hydragrad.runs.log import MicroBatch, StepRecord

ROUNDING = 1e-4
"""How far sums of coefficients may be from a whole, relative to it."""


class Share(NamedTuple):
    """What one micro-batch needs of the mean that its losses are in.

    Attributes:
        of_sample: v_i / A by sample, (batch,).
        total: sum_j c'_j a_j (derivative of l_j) over the mean, (...,): one number a query.
    """

    of_sample: Tensor
    total: Tensor


@dataclass(frozen=True)
class Means:
    """How the losses of a run's steps are averaged.

    Attributes:
        over_parts: The weights of the mean are numbers of parts (tokens); else they are the coefficients.
        over_steps: A mean is over all micro-batches of a step; else over each. Of means over parts every step shows it.
    """

    over_parts: bool = False
    over_steps: bool = False

    def factors(self, record: StepRecord, alpha: Sequence[Tensor], counts: Sequence[Tensor | None]) -> list[float]:
        """V / A of every micro-batch: what the coefficients are multiplied by, next to the sample weights.

        Args:
            record: The step.
            alpha: Sample weights by micro-batch, (batch,).
            counts: Numbers of parts by micro-batch, (batch,), where means are over parts.

        Raises:
            QueryError: Sample weights that leave no mean.
            Unsupported: The coefficients are not those of a mean over parts.
        """
        result = [1.0] * len(alpha)
        weights = self._weights(record, counts)
        for group in self._groups(record, weights):
            before = math.fsum(float(weights[number].sum()) for number in group)
            after = math.fsum(float(weights[number] @ alpha[number].double().cpu()) for number in group)
            if after <= 0 and any(bool(alpha[number].any()) for number in group):
                raise QueryError(
                    f"removal='renormalised' divides by the sum of a batch's sample weights, which is {after:.3g} at "
                    f"step {record.step}. Give weights that are not negative, or removal='weight'."
                )
            for number in group:
                result[number] = before / after if after > 0 else 1.0
        return result

    def shares(
        self,
        record: StepRecord,
        terms: Sequence[Tensor],
        alpha: Sequence[Tensor] | None,
        counts: Sequence[Tensor | None],
    ) -> list[Share]:
        """What every micro-batch's derivatives are lessened by.

        Args:
            record: The step.
            terms: c'_i (derivative of l_i) by micro-batch, float64 (..., batch).
            alpha: Sample weights by micro-batch; None where they are 1.
            counts: As for `factors`.
        """
        result: list[Share | None] = [None] * len(terms)
        weights = self._weights(record, counts)
        given = [torch.ones_like(v) if alpha is None else alpha[n].double().cpu() for n, v in enumerate(weights)]
        for group in self._groups(record, weights):
            whole = math.fsum(float(weights[number] @ given[number]) for number in group)
            total = torch.stack([terms[number] @ given[number] for number in group]).sum(0)
            for number in group:
                share = weights[number] / whole if whole > 0 else torch.zeros_like(weights[number])
                result[number] = Share(share, total)
        return [share for share in result if share is not None]

    def _weights(self, record: StepRecord, counts: Sequence[Tensor | None]) -> list[Tensor]:
        if not self.over_parts:
            return [coefficients_of(part) for part in record.micro_batches]
        known = [count.double().cpu() for count in counts if count is not None]
        if len(known) < len(record.micro_batches):
            raise Unsupported(no_mean("Its loss does not show the parts of its samples"))
        return known

    def _groups(self, record: StepRecord, weights: Sequence[Tensor]) -> list[list[int]]:
        """Which micro-batches share a mean."""
        every = list(range(len(record.micro_batches)))
        if not self.over_parts:
            return [every] if self.over_steps else [[number] for number in every]
        wholes = [
            float(coefficients_of(part)[0] * v.sum()) for part, v in zip(record.micro_batches, weights, strict=True)
        ]
        first = [float(coefficients_of(part)[0]) for part in record.micro_batches]
        if near(math.fsum(wholes), 1.0) and all(near(one, first[0]) for one in first):
            return [every]
        if all(near(whole * len(every), 1.0) for whole in wholes):
            return [[number] for number in every]
        raise Unsupported(no_mean(f"at step {record.step} it is not the mean over the batch's parts, either"))


def parts_in(losses: Tensor) -> Tensor | None:
    """Number of parts of every sample, (batch,), of losses that know them."""
    terms = getattr(losses, TERMS, None)
    return None if terms is None else terms.is_part.sum(1)


def coefficients_of(part: MicroBatch) -> Tensor:
    """Derivatives of the step's loss by the losses of a micro-batch, float64 (batch,)."""
    return part.weighted(torch.ones(len(part), dtype=torch.float64))


def near(value: float, wanted: float) -> bool:
    """Whether two numbers differ by no more than rounding of coefficients explains."""
    return abs(value - wanted) <= ROUNDING * abs(wanted)


def no_mean(what: str) -> str:
    """Why the mean over the rest is not known, and what to do."""
    return (
        f"removal='renormalised' needs steps whose loss is a mean over samples, a weighted mean or a sum; the "
        f"coefficients of this run's losses are none of these. {what}. Or use removal='weight'."
    )
