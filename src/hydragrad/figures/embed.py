"""Figures as text that depends on the figure alone: no dates, no random ids."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING

from hydragrad.figures.style import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def to_svg(figure: Figure) -> str:
    """Return a figure as an SVG element without background, with text as outlines."""
    file = StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with drawing(), _any_script():
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    text = file.getvalue()
    return text[text.index("<svg") :]  # the head names a DTD on another host


@contextmanager
def _any_script() -> Iterator[None]:
    """Ignore warnings about characters that the typeface does not have; they are drawn as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield
