"""Small pictures in a terminal: coloured half blocks, or shades where there is no colour."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

WIDTH = 16
"""Columns of a picture, at most; each character shows two pixels, one above the other."""
NARROWEST, GAP = 10, 2
SHADES = " ░▒▓█"

Picture = NDArray[np.uint8]
"""Pixels, (height, width) or (height, width, 3)."""


def print_pictures(console: Console, pictures: Sequence[Picture], captions: Sequence[str]) -> None:
    """Print pictures side by side with their captions below, as many in a row as the terminal is wide."""
    width = max(NARROWEST, min(WIDTH, console.width // len(pictures) - GAP))
    draw = half_blocks if console.color_system is not None and not console.no_color else shades
    row = max(1, console.width // (width + GAP))
    cells = [
        Text.assemble(draw(picture, width), f"\n{caption}" if caption else "")
        for picture, caption in zip(pictures, captions, strict=True)
    ]
    for start in range(0, len(cells), row):
        grid = Table.grid(padding=(0, GAP, 0, 0))
        grid.add_row(*cells[start : start + row])
        console.print(grid)


def half_blocks(picture: Picture, width: int = WIDTH) -> Text:
    """Draw a picture as coloured half blocks."""
    pixels = _resized(picture, width, 2)
    text = Text()
    for row in range(0, len(pixels), 2):
        for upper, lower in zip(pixels[row], pixels[row + 1], strict=True):
            text.append("▀", Style(color=_colour(upper), bgcolor=_colour(lower)))
        text.append("\n" if row + 2 < len(pixels) else "")
    return text


def shades(picture: Picture, width: int = WIDTH) -> Text:
    """Draw a picture in five shades, for terminals without colour."""
    grey = _resized(picture, width, 1).mean(2)
    levels = (grey / 256 * len(SHADES)).astype(int)
    return Text("\n".join("".join(SHADES[level] for level in row) for row in levels))


def _resized(picture: Picture, width: int, pixels_a_line: int) -> Picture:
    """Pixels (height, width, 3); a character is about twice as high as wide."""
    lines = max(1, round(width * picture.shape[0] / picture.shape[1] / 2))
    image = Image.fromarray(picture).convert("RGB")
    return np.asarray(image.resize((width, lines * pixels_a_line), Image.Resampling.BOX))


def _colour(pixel: Picture) -> str:
    red, green, blue = pixel.tolist()
    return f"#{red:02x}{green:02x}{blue:02x}"
