"""TracIn: sums, over checkpoints, of rate x gradient of the sample . gradient of the query.

What one step of gradient descent on the sample alone would have lowered the query by, at each checkpoint: positive
helps, as for contributions. There is no curvature in it, and no account of what later steps undo. Its scale grows with
the number of checkpoints.

Source: Pruthi et al., NeurIPS 2020, TracInCP.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hydragrad.attribution.averaged_over import AveragedOver, averaged_over, in_a_range
from hydragrad.attribution.influence import query_rows
from hydragrad.attribution.losses_along import losses_along
from hydragrad.errors import QueryError
from hydragrad.progress import bar
from hydragrad.replay import Recording, samples_in
from hydragrad.scores import Note, Query, QueryRow, Scores, checked_samples, numbered, queries_of
from hydragrad.scores.evidence import TRACIN
from hydragrad.steps.rule import number
from hydragrad.surroundings import in_clean_surroundings
from hydragrad.trained_elsewhere import Checkpoints


@in_clean_surroundings
def tracin(
    run: Recording | Checkpoints,
    query: Query | Sequence[Query],
    *,
    rates: float | Sequence[float] | None = None,
    checkpoints: int = 10,
    samples: Sequence[int] | Tensor | None = None,
) -> Scores:
    """TracIn: sum over checkpoints of rate x (gradient of the sample . gradient of the query); positive helps.

    Args:
        run: The recorded run, or checkpoints of a model trained elsewhere.
        query: A scalar of the model, or several.
        rates: The learning rate at every checkpoint that is summed over, or one for all. None takes those that the run
            recorded; for checkpoints of a model trained elsewhere they must be given.
        checkpoints: How many checkpoints to sum over, at most, as for `influence`.
        samples: Training samples to score; all if None.

    Returns:
        Scores with one row a query scalar. Read the ranking: the scale depends on the number of checkpoints.

    Raises:
        QueryError: Rates that are missing, negative or of another number; ids that do not exist; no checkpoint.
        NonFinite: A sample's loss has no finite derivative.
        Unsupported: `run` is neither.

    Cost: at every checkpoint, a gradient of each query and one directional derivative of the samples for each.

    Source: Pruthi et al., NeurIPS 2020, TracInCP.
    """
    over = averaged_over(run, checkpoints, "tracin")
    queries, ids = queries_of(query), checked_samples(samples, samples_in(run))
    at_each = rates_at(run, over, rates)
    total, rows = torch.zeros((), dtype=torch.float64), list[QueryRow]()
    with bar("TracIn", len(over), unit="checkpoints") as progress:
        for rate, read in zip(at_each, over.read, strict=True):
            at = read()
            rows = query_rows(run, over.layout, at, queries)
            gradients = torch.stack([row.w_bar for row in rows])
            total = total + rate * losses_along(run, over.layout, at, gradients, ids)
            progress.advance()
    return Scores(
        values=total,
        sample_ids=ids,
        query_names=numbered(row.name for row in rows),
        query_values=torch.tensor([row.value for row in rows], dtype=torch.float64),  # the last is the trained model
        evidence=over.evidence(run, TRACIN, [_note(over, at_each)]),
        queries=tuple(queries),
    )


def rates_at(run: Recording | Checkpoints, over: AveragedOver, rates: float | Sequence[float] | None) -> list[float]:
    """The learning rate at every checkpoint.

    Raises:
        QueryError: Rates that are missing, negative or of another number.
    """
    if rates is None and isinstance(run, Recording):
        return [_recorded_rate(run, step) for step in over.steps]
    if rates is None:
        raise QueryError(
            "The rates of a training that was not recorded must be given: rates=0.1, or one for each of the "
            f"{len(over)} checkpoints."
        )
    every = [float(rates)] * len(over) if isinstance(rates, int | float) else [float(rate) for rate in rates]
    if len(every) != len(over):
        raise QueryError(f"rates must hold one number for each of the {len(over)} checkpoints, got {len(every)}.")
    if not all(math.isfinite(rate) and rate >= 0 for rate in every) or not any(every):
        raise QueryError(f"Rates must be finite and not negative, and not all 0, got {every}.")
    return every


def _recorded_rate(run: Recording, step: int) -> float:
    """The rate of the step that led to a checkpoint.

    Raises:
        QueryError: Parameter groups had different ones.
    """
    options = run.steps[step - 1].options
    rates = {number(group["lr"]) for group in options if group.get("lr") is not None}
    if len(rates) != 1:
        raise QueryError(
            f"The run must have one rate a step for TracIn, or rates= be given; at step {step - 1:,} its parameter "
            f"groups had {', '.join(f'{rate:g}' for rate in sorted(rates)) or 'none'}."
        )
    return rates.pop()


def _note(over: AveragedOver, rates: Sequence[float]) -> Note:
    where = over.in_words.replace("averaged over", "summed over")
    return Note("influence", f"TracIn, without curvature, {where}; rates {in_a_range(rates)}.")
