"""Sums of derivatives by part: (queries, samples, parts), NaN where a sample has no such part.

A part is known by its place in its sample's row of losses. Its terms of all visits add up, so a sample must have the
same parts whenever it is visited.
"""

from collections.abc import Sequence
from typing import NamedTuple

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from hydragrad.attribution.gradients import on_device
from hydragrad.attribution.plan import Plan
from hydragrad.derivatives import LossModule, terms_of
from hydragrad.errors import LossError, NotEnoughMemory
from hydragrad.randomness import preserved

COPIES = 3
"""Of the sums at the same time: those of the steps so far, those of the present segment, and the result."""


class Named(NamedTuple):
    """A step, if there is one, and samples that are scored, for messages."""

    step: int | None
    samples: list[int]


def require_room(queries: int, samples: int, parts: int) -> None:
    """Refuse sums by part that would not fit into memory.

    Raises:
        NotEnoughMemory: Says how many samples do.
    """
    of_sample = COPIES * 8 * queries * parts
    available = psutil.virtual_memory().available
    if samples * of_sample > available:
        raise NotEnoughMemory(
            f"Contributions of {parts:,} parts of {samples:,} samples to {queries:,} queries need "
            f"{samples * of_sample / 2**30:,.1f} GiB of memory and {available / 2**30:,.1f} GiB are free: "
            f"{available // of_sample:,} samples fit. Give fewer with samples=, or fewer queries at a time."
        )


def require_room_for_first(plan: Plan, queries: int) -> None:
    """Refuse sums by part that would not fit, judged by the first batch, before any work.

    Raises:
        NotEnoughMemory: Says how many samples do.
        LossError: The loss is not one number a part.
    """
    run, problem = plan.run, LossModule(plan.run.model, plan.run.loss)
    with preserved(), torch.enable_grad():
        state = on_device(run, run.initial.parameters), on_device(run, run.initial.buffers)
        losses, _ = problem.at(*state, run.batches(run.steps[0])[0])
    require_room(queries, len(plan.sample_ids), terms_of(losses).is_part.shape[1])


def add_parts(
    sums: Tensor, visits: Tensor, columns: Tensor, is_part: Tensor, derivatives: Tensor, named: Named
) -> Tensor:
    """Add the derivatives of a micro-batch's parts; return the sums, which may have become wider.

    Args:
        sums: (queries, samples, parts), NaN where there is no part; is changed.
        visits: How often each sample was there already, (samples,); is changed.
        columns: Which samples these are, (batch,).
        is_part: bool (batch, parts).
        derivatives: (queries, batch, parts), coefficients included.
        named: What the message calls the step and the samples.

    Raises:
        LossError: A sample has other parts than at an earlier visit.
        NotEnoughMemory: The sums would not fit.
    """
    more = is_part.shape[1] - sums.shape[2]
    if more > 0:
        require_room(len(sums), sums.shape[1], is_part.shape[1])
        sums = F.pad(sums, (0, more), value=torch.nan)
    is_part, derivatives = F.pad(is_part, (0, max(0, -more))), F.pad(derivatives, (0, max(0, -more)))
    new = visits[columns] == 0
    zero_or_none = torch.zeros(is_part.shape, dtype=sums.dtype).masked_fill(~is_part, torch.nan)
    sums[:, columns[new]] = zero_or_none[new]
    _require_same(~sums[0, columns].isnan(), is_part, named)
    sums.index_add_(1, columns, derivatives.masked_fill(~is_part, 0.0))
    visits.index_add_(0, columns, torch.ones(len(columns), dtype=visits.dtype))
    return sums


def join_parts(
    sums: Tensor, visits: Tensor, columns: Tensor, others: Tensor, others_visits: Tensor, ids: Tensor
) -> Tensor:
    """Add the sums by part of other steps; return the sums, which may have become wider.

    Args:
        sums: (queries, samples, parts), NaN where there is no part; is changed.
        visits: How often each sample was there already, (samples,); is changed.
        columns: Which samples the others are of, (some,).
        others: (queries, some, parts).
        others_visits: (some,).
        ids: What the message calls the samples, (samples,).

    Raises:
        LossError: A sample has other parts in the others.
    """
    width = max(sums.shape[2], others.shape[2])
    sums = F.pad(sums, (0, width - sums.shape[2]), value=torch.nan)
    others = F.pad(others, (0, width - others.shape[2]), value=torch.nan)
    here, there = visits[columns] > 0, others_visits > 0
    both, new = here & there, ~here & there
    if width:
        named = Named(None, ids[columns[both]].tolist())
        _require_same(~sums[0, columns[both]].isnan(), ~others[0, both].isnan(), named)
    sums[:, columns[new]] = others[:, new]
    sums[:, columns[both]] += others[:, both]
    visits.index_add_(0, columns, others_visits)
    return sums


def _require_same(before: Tensor, now: Tensor, named: Named) -> None:
    different = (before != now).any(1)
    if bool(different.any()):
        place = int(different.nonzero()[0])
        at = "one step" if named.step is None else f"step {named.step}"
        raise LossError(
            f"A sample must have the same parts whenever it is trained on; sample {named.samples[place]} has "
            f"{_places(now[place])} at {at}, and {_places(before[place])} at another one: random cropping "
            f"or masking, or padding on the left. Pad on the right, give a part that is left out for once the loss 0, "
            f"or leave parts=True out."
        )


def _places(row: Tensor) -> str:
    parts: Sequence[int] = row.nonzero()[:, 0].tolist()
    return f"{len(parts):,} parts ({parts[0]} to {parts[-1]})" if parts else "no part"
