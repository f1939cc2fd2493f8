"""How a recorded run averages its losses, read off the coefficients of its steps.

Whole are those of a mean: they add up to 1 over a step, or to one number over steps of several sizes. Equal in steps of
several sizes are those of a sum. A mean over tokens shows once the tokens are counted. What none of this decides is
refused.
"""

import math
from collections.abc import Iterable, Sequence

from hydragrad.derivatives import LossOfParts
from hydragrad.errors import Unsupported
from hydragrad.replay.means import Means, coefficients_of, near, no_mean
from hydragrad.replay.recording import Recording
from hydragrad.runs.log import StepRecord


def run_means(run: Recording) -> Means | None:
    """How a run's steps average their losses; None where they add them up.

    Raises:
        Unsupported: Its coefficients are neither those of means nor of sums.
    """
    steps = run.steps
    sums = [[float(coefficients_of(part).sum()) for part in record.micro_batches] for record in steps]
    if run.manifest.reduction == "sum" and _one_number(steps) == 1.0:
        return None
    if all(near(math.fsum(of_step), 1.0) for of_step in sums):
        return Means(over_steps=_over_steps(run, sums))
    sizes = {len(part) for record in steps for part in record.micro_batches}
    constant = _one_number(steps)
    if constant is not None and (constant == 1.0 or len(sizes) > 1):
        return None
    if len(sizes) > 1 and all(near(math.fsum(of_step), math.fsum(sums[0])) for of_step in sums):
        return Means(over_steps=_over_steps(run, sums))
    uniform = all(not isinstance(part.coefficients, tuple) for record in steps for part in record.micro_batches)
    if isinstance(run.loss, LossOfParts) and uniform:
        return Means(over_parts=True)
    raise Unsupported(
        no_mean(
            "If it is a mean over tokens, record and open the run with a loss made by hg.loss_of_parts; where "
            "micro-batches are divided by a fixed number, let the last step of an epoch have as many as the others"
        )
    )


def _over_steps(run: Recording, sums: Iterable[Sequence[float]]) -> bool:
    """Whether a mean is over all micro-batches of a step: where they are of unequal weight, or hg.train says so."""
    unequal = any(not near(one, of_step[0]) for of_step in sums for one in of_step)
    return unequal or run.manifest.about.get("accumulate", 1) > 1


def _one_number(steps: Iterable[StepRecord]) -> float | None:
    """The coefficient that all losses of a run have; None where they differ."""
    every = {part.coefficients for record in steps for part in record.micro_batches}
    (one, *others) = every
    return None if others or isinstance(one, tuple) else one
