"""Grids of pictures of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hydragrad.errors import PresentationError
from hydragrad.figures.style import WIDTH, drawing, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = NDArray[np.uint8]


def picture_grid(pictures: Sequence[Picture], captions: Sequence[str], columns: int) -> Figure:
    """Draw pictures in rows of `columns`, with their captions above them.

    Raises:
        PresentationError: No pictures, another number of captions, or pictures that are not uint8.
    """
    if not pictures or len(pictures) != len(captions) or columns < 1:
        raise PresentationError(
            f"A grid needs at least one picture, one caption per picture, and at least one column; got "
            f"{len(pictures)} pictures, {len(captions)} captions and {columns} columns."
        )
    from matplotlib.figure import Figure  # slow to import

    rows, side = -(-len(pictures) // columns), WIDTH / columns
    with drawing():
        figure = Figure(figsize=(WIDTH, rows * (side + 0.45)), layout="constrained")
        for position, (picture, caption) in enumerate(zip(pictures, captions, strict=True), start=1):
            axes = figure.add_subplot(rows, columns, position)
            axes.imshow(_checked(picture), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            lines = [plain(line, max(8, 72 // columns)) for line in caption.splitlines()]
            axes.set_title("\n".join(lines), fontsize=10, loc="center")
            axes.set_axis_off()
    return figure


def _checked(picture: Picture) -> Picture:
    array = np.asarray(picture)
    if array.dtype != np.uint8 or not (array.ndim == 2 or array.shape[2:] == (3,)) or 0 in array.shape:
        raise PresentationError(
            f"A picture must be uint8 of shape (height, width) or (height, width, 3), got {array.dtype} of shape "
            f"{array.shape}."
        )
    return np.ascontiguousarray(array)
