"""Figures as text and bytes that depend on nothing but the figure: no dates, no random ids."""

import base64
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, StringIO
from typing import Literal

from matplotlib.figure import Figure

from hydragrad.figures.style import ON_DARK, drawing


def to_svg(figure: Figure) -> str:
    """Return a figure as an SVG element without background, its type as outlines."""
    file = StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with drawing(), _any_script():
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    text = file.getvalue()
    return text[text.index("<svg") :]  # the head names a DTD on another host


def for_dark_pages(svg: str) -> str:
    """Return what `to_svg` gave in the colours for a dark page."""
    for colour, replacement in ON_DARK.items():
        svg = svg.replace(colour, replacement)
    return svg


def to_png(figure: Figure, *, dpi: int = 150) -> bytes:
    """Return a figure as a PNG on white."""
    file = BytesIO()
    with drawing(), _any_script():
        figure.savefig(file, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return file.getvalue()


def data_uri(content: str | bytes, kind: Literal["image/svg+xml", "image/png"]) -> str:
    """Return an image as a URI that holds all of it."""
    data = content.encode() if isinstance(content, str) else content
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@contextmanager
def _any_script() -> Iterator[None]:
    """A name in a script that the typeface lacks is drawn as boxes, which is no reason to warn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield
