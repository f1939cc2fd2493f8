"""How predicted changes have to be scaled to fit the actual ones; averages of what is defined."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def scale_of(predicted: Array, actual: Array) -> float:
    """Least-squares factor from predicted to actual changes, both (groups,): no removal, no change."""
    return float(predicted @ actual / (predicted @ predicted)) if predicted.any() else math.nan


def median(values: Sequence[float]) -> float:
    """Of those that are defined; NaN where none is."""
    finite = [value for value in values if not math.isnan(value)]
    return float(np.median(finite)) if finite else math.nan


def mean(values: Sequence[float]) -> float:
    """Of those that are defined; NaN where none is."""
    finite = [value for value in values if not math.isnan(value)]
    return float(np.mean(finite)) if finite else math.nan


def defined(value: float) -> float | None:
    """None for NaN."""
    return None if math.isnan(value) else value
