"""Checks of the arrays that a figure gets, before anything is drawn."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hydragrad.errors import PresentationError


def vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return finite numbers as float64, (n,) with n at least 1.

    Raises:
        PresentationError: Another shape, no values, NaN or infinity.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise PresentationError(f"The {name} must be a list of numbers, got shape {array.shape}.")
    wrong = int((~np.isfinite(array)).sum())
    if wrong:
        raise PresentationError(
            f"The {name} must be finite; {wrong:,} of {array.size:,} are NaN or infinite. Leave them out."
        )
    return array


def shares(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return shares as fractions between 0 and 1, float64, (n,).

    Raises:
        PresentationError: As `vector`, or percentages.
    """
    array = vector(values, name)
    if array.min() < 0 or array.max() > 1:
        raise PresentationError(
            f"The {name} must be fractions between 0 and 1, got {array.min():g} to {array.max():g}."
        )
    return array


def same_length(first: NDArray[np.float64], second: NDArray[np.float64], names: str) -> None:
    """Require two arrays of the same length.

    Raises:
        PresentationError: Different lengths.
    """
    if len(first) != len(second):
        raise PresentationError(f"The {names} must have the same length, got {len(first):,} and {len(second):,}.")
