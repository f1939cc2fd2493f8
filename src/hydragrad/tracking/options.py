"""The choices that Tracker and hypergradients share, checked before any work."""

from typing import Literal, get_args

from torch import nn

from hydragrad.derivatives import BatchStatistics, normalises_batches, running_statistics
from hydragrad.errors import QueryError
from hydragrad.scores.notes import STATISTICS_CONSTANT

Kept = Literal["none", "hessian"]
"""What of the loss's curvature rows may hold."""


def require_sound(curvature: str, projection: int | None, batch_statistics: str) -> None:
    """Refuse choices that do not exist, or not together.

    Raises:
        QueryError: Says which.
    """
    if curvature not in get_args(Kept):
        raise QueryError(f"curvature must be 'none' or 'hessian' here; {curvature!r} came.")
    if projection is not None and curvature == "hessian":
        raise QueryError("Exact tangents need whole rows while they grow: leave projection out with 'hessian'.")
    if batch_statistics not in get_args(BatchStatistics):
        raise QueryError(f"batch_statistics must be 'exact' or 'frozen'; {batch_statistics!r} came.")
    if batch_statistics == "frozen" and curvature == "hessian":
        raise QueryError(
            "curvature='hessian' is the exact derivative of the run, the batch's statistics included; with "
            "batch_statistics='frozen' it would be neither. Leave one of them out."
        )


def notes(model: nn.Module, curvature: str, batch_statistics: str) -> list[str]:
    """What a reader of the rows must know about BatchNorm."""
    found = []
    if curvature == "none" and running_statistics(model):
        found.append(STATISTICS_CONSTANT.text)
    if batch_statistics == "frozen" and normalises_batches(model):
        found.append(
            "The statistics of each BatchNorm's batch were treated as constants (batch_statistics='frozen'): an "
            "approximation."
        )
    return found
