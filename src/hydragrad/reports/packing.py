"""Columns of numbers as text: little-endian bytes in base64, which a browser unpacks at once."""

import base64
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Kind = Literal["u1", "u2", "u4", "i4", "f4", "f8"]
Packed = dict[str, str]


def packed(values: ArrayLike, kind: Kind) -> Packed:
    """Return numbers of any shape, flattened, as {kind: base64}."""
    array = np.ascontiguousarray(np.asarray(values), dtype=f"<{kind}")
    return {kind: base64.b64encode(array.tobytes()).decode()}
