"""Many small pictures in a few large ones, which browsers decode at once."""

import base64
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hydragrad.reports.packing import packed

Picture = NDArray[np.uint8]

LARGEST = 64
"""Pixels of a thumbnail's longer side, at most."""

COLUMNS, ROWS = 32, 16
"""Thumbnails in a sheet."""

BUDGET = 6 << 20
"""Bytes of all sheets, beyond which they lose detail."""

ENCODINGS: tuple[dict[str, Any], ...] = (
    {"format": "PNG", "optimize": True},
    *({"format": "JPEG", "quality": quality, "optimize": True} for quality in (90, 75, 50, 25)),
)
"""What is tried, in this order, until the sheets fit into the budget; the last one is taken in any case."""


def sheets(pictures: Sequence[Picture], *, budget: int = BUDGET) -> dict[str, Any] | None:
    """Pack pictures, uint8 (height, width) or (height, width, 3), for the page; None where there are none.

    Returns:
        Cell size, `columns` and cells `per` sheet, the picture's own `sizes` (width, height), the media type and
        the sheets' bytes in base64. Picture n lies in cell n % per of sheet n // per, at its upper left.
    """
    if not pictures:
        return None
    small = [_thumbnail(picture) for picture in pictures]
    width, height = (max(image.size[side] for image in small) for side in (0, 1))
    mode = "RGB" if any(image.mode == "RGB" for image in small) else "L"
    drawn = list(_drawn(small, mode, width, height))
    encoded: list[bytes] = []
    for encoding in ENCODINGS:
        encoded = [_encoded(sheet, encoding) for sheet in drawn]
        if sum(map(len, encoded)) <= budget:
            break
    return {
        "width": width,
        "height": height,
        "columns": COLUMNS,
        "per": COLUMNS * ROWS,
        "sizes": packed([image.size for image in small], "u1"),
        "type": f"image/{encoding['format'].lower()}",
        "data": [base64.b64encode(sheet).decode() for sheet in encoded],
    }


def _thumbnail(picture: Picture) -> Image.Image:
    image = Image.fromarray(picture)
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    return image


def _drawn(small: Sequence[Image.Image], mode: str, width: int, height: int) -> Iterator[Image.Image]:
    per = COLUMNS * ROWS
    for start in range(0, len(small), per):
        part = small[start : start + per]
        sheet = Image.new(mode, (min(len(part), COLUMNS) * width, -(-len(part) // COLUMNS) * height))
        for number, image in enumerate(part):
            sheet.paste(image, (number % COLUMNS * width, number // COLUMNS * height))
        yield sheet


def _encoded(sheet: Image.Image, encoding: dict[str, Any]) -> bytes:
    file = BytesIO()
    sheet.save(file, **encoding)
    return file.getvalue()
