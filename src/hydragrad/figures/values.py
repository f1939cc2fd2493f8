"""What a figure is given, checked before anything is drawn."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hydragrad.errors import PresentationError


def vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return finite numbers as float64, (n,) with n at least 1.

    Raises:
        PresentationError: Another shape, nothing, NaN or infinity.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise PresentationError(f"The {name} must be a list of numbers; shape {array.shape} came.")
    wrong = int((~np.isfinite(array)).sum())
    if wrong:
        raise PresentationError(f"{wrong:,} of the {array.size:,} {name} are NaN or infinite. Leave them out.")
    return array


def shares(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return shares as fractions between 0 and 1, float64, (n,).

    Raises:
        PresentationError: As `vector`, or percentages.
    """
    array = vector(values, name)
    if array.min() < 0 or array.max() > 1:
        raise PresentationError(
            f"The {name} must be fractions between 0 and 1; {array.min():g} to {array.max():g} came."
        )
    return array


def same_length(first: NDArray[np.float64], second: NDArray[np.float64], names: str) -> None:
    """Refuse two lists that can't be drawn against each other.

    Raises:
        PresentationError: Different lengths.
    """
    if len(first) != len(second):
        raise PresentationError(f"The {names} must be equally many; {len(first):,} and {len(second):,} came.")
