"""Predicted against actual changes as the page shows them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydragrad.errors import PresentationError
from hydragrad.figures import Agreement, agreement
from hydragrad.reports.wording import number, signed
from hydragrad.scores import Check, Curvature, Evidence

NEARLY = 0.8
"""Rank correlation from which two orders are said to be nearly the same."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Predicted against actual changes, both (n,), and what they mean.

    Attributes:
        name: Heading.
        unit: Of the changes.
        curvature: What the predictions were computed with, if known.
        agreement: Slope and correlations.
        sentence: What they mean.
        group_names: What was left out, (n,), if known.
    """

    name: str
    unit: str
    curvature: Curvature | None
    predicted: NDArray[np.float64]
    actual: NDArray[np.float64]
    agreement: Agreement
    sentence: str
    group_names: tuple[str, ...] | None = None


def read_comparisons(evidence: Evidence, checks: Sequence[Check | Mapping[str, Any]]) -> tuple[Comparison, ...]:
    """The checks of the evidence that hold changes, and further ones; equal ones once.

    Args:
        evidence: Of the scores.
        checks: Further checks, or mappings with the entries predicted and actual.

    Raises:
        PresentationError: An entry is missing, or predicted and actual do not fit together.
    """
    own = [check for check in evidence.checks if check.predicted and check.actual]
    further = [check if isinstance(check, Check) else _checked(check) for check in checks]
    once: dict[Any, Check] = {}
    for check in [*own, *further]:
        once.setdefault((check.name, check.predicted, check.actual), check)
    return tuple(map(_compared, once.values()))


def _checked(entries: Mapping[str, Any]) -> Check:
    if "predicted" not in entries or "actual" not in entries:
        raise PresentationError(
            f"A check needs the entries predicted and actual, got {', '.join(map(str, entries)) or 'no entries'}."
        )
    changes = {name: np.atleast_1d(np.asarray(entries[name], float)).tolist() for name in ("predicted", "actual")}
    return Check.read({**entries, **changes})


def _compared(check: Check) -> Comparison:
    predicted, actual = np.asarray(check.predicted, float), np.asarray(check.actual, float)
    agreed = agreement(predicted, actual)
    unit = check.unit or "unit of the query"
    names = check.group_names or ()
    return Comparison(
        name=check.name or "Check",
        unit=unit,
        curvature=check.curvature,
        predicted=predicted,
        actual=actual,
        agreement=agreed,
        sentence=check.sentence if check.kind == "random" else _sentence(predicted, actual, agreed, unit),
        group_names=tuple(map(str, names)) if len(names) == len(predicted) else None,
    )


def _sentence(predicted: NDArray[np.float64], actual: NDArray[np.float64], agreed: Agreement, unit: str) -> str:
    if agreed.count == 1:
        return f"Predicted {signed(float(predicted[0]))}, actual {signed(float(actual[0]))} ({unit})."
    if math.isnan(agreed.spearman):
        return f"With {agreed.count} pairs that do not differ enough, nothing can be said about agreement."
    chance = 2 / math.sqrt(agreed.count - 1)
    order = (
        "agree in order no better than by chance"
        if abs(agreed.spearman) < chance
        else "are in opposite order"
        if agreed.spearman < 0
        else "are in nearly the same order"
        if agreed.spearman > NEARLY
        else "are in partly the same order"
    )
    return (
        f"Over {agreed.count:,} comparisons, predicted and actual changes {order} "
        f"(Spearman {number(round(agreed.spearman, 2))}); for each unit that the prediction rises, "
        f"the actual change rises by {number(agreed.slope)} (ideal: 1)."
    )
