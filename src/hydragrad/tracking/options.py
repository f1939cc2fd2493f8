"""The choices that Tracker and hypergradients share, checked before any work."""

import math
from typing import Literal, get_args

from torch import nn

from hydragrad.derivatives import BatchStatistics, normalises_batches, running_statistics
from hydragrad.errors import QueryError
from hydragrad.scores.notes import STATISTICS_CONSTANT
from hydragrad.steps import SMOOTHING, StepRule

RowCurvature = Literal["none", "hessian"]
"""What of the loss's curvature rows may hold."""


def require_sound(curvature: str, projection: int | None, batch_statistics: str, rule: StepRule) -> None:
    """Refuse choices that do not exist, or not together.

    Raises:
        QueryError: Says which.
    """
    if curvature not in get_args(RowCurvature):
        raise QueryError(f"curvature must be 'none' or 'hessian' here, got {curvature!r}.")
    if projection is not None and curvature == "hessian":
        raise QueryError("Exact tangents need whole rows while they grow: leave projection out with 'hessian'.")
    if projection is not None and rule.closed_form is None:
        raise QueryError(
            f"Under {rule.torch_class.__name__} every coordinate of a row moves in its own way, so rows need all of "
            f"them. Leave projection out and track fewer samples, or record the run and use hg.attribute(run, query)."
        )
    if batch_statistics not in get_args(BatchStatistics):
        raise QueryError(f"batch_statistics must be 'exact' or 'frozen', got {batch_statistics!r}.")
    if batch_statistics == "frozen" and curvature == "hessian":
        raise QueryError(
            "curvature='hessian' is the exact derivative of the run, the batch's statistics included; with "
            "batch_statistics='frozen' it would be neither. Leave one of them out."
        )


def clipped_rows_are_whole(step: int) -> QueryError:
    """The refusal of projected rows of a run whose gradients were clipped or scaled, first at a step."""
    return QueryError(
        f"Clipping depends on whole gradients, and projected rows do not have them; it first acted at step {step}. "
        f"Leave projection out and track fewer samples, or record the run and use hg.attribute(run, query)."
    )


def smoothing_share(rule: StepRule, smoothing: float | None) -> float:
    """The share of the mean second moment that derivatives add under its root: 0 where there is none.

    Raises:
        QueryError: A negative share.
    """
    if smoothing is not None and not 0 <= smoothing < math.inf:
        raise QueryError(f"smoothing must be a finite share of at least 0, got {smoothing}.")
    if rule.second_moment is None:
        return 0.0
    return SMOOTHING if smoothing is None else smoothing


def notes(model: nn.Module, curvature: str, batch_statistics: str) -> list[str]:
    """What a reader of the rows must know about BatchNorm."""
    texts = []
    if curvature == "none" and running_statistics(model):
        texts.append(STATISTICS_CONSTANT.text)
    if batch_statistics == "frozen" and normalises_batches(model):
        texts.append(
            "The statistics of each BatchNorm's batch were treated as constants (batch_statistics='frozen'): an "
            "approximation."
        )
    return texts
