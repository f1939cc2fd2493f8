"""Thumbnails in sheets: every picture comes back from its place, and the budget holds."""

import base64
from io import BytesIO

import numpy as np
from PIL import Image

from hydragrad.reports.sheets import LARGEST, sheets


def cut(packed, number):
    """The picture of a place, as the page cuts it out."""
    sizes = np.frombuffer(base64.b64decode(packed["sizes"]["u1"]), np.uint8).reshape(-1, 2)
    sheet = Image.open(BytesIO(base64.b64decode(packed["data"][number // packed["per"]])))
    row, column = divmod(number % packed["per"], packed["columns"])
    left, top = column * packed["width"], row * packed["height"]
    width, height = sizes[number].tolist()
    return np.asarray(sheet.crop((left, top, left + width, top + height)))


def test_every_picture_comes_back():
    random = np.random.default_rng(0)
    pictures = [random.integers(256, size=(5 + n % 3, 7), dtype=np.uint8) for n in range(600)]
    packed = sheets(pictures)
    assert packed["type"] == "image/png" and len(packed["data"]) == 2
    for number in (0, 1, 31, 32, 511, 512, 599):
        np.testing.assert_array_equal(cut(packed, number), pictures[number])


def test_one_colour_picture_makes_all_sheets_coloured():
    grey, colour = np.full((4, 4), 9, np.uint8), np.zeros((4, 4, 3), np.uint8)
    colour[..., 0] = 200
    packed = sheets([grey, colour])
    np.testing.assert_array_equal(cut(packed, 0), np.full((4, 4, 3), 9))
    np.testing.assert_array_equal(cut(packed, 1), colour)


def test_large_pictures_are_made_small():
    packed = sheets([np.zeros((300, 200, 3), np.uint8)])
    assert (packed["width"], packed["height"]) == (round(LARGEST * 200 / 300), LARGEST)


def test_detail_is_lost_before_the_budget_is():
    noise = [np.random.default_rng(n).integers(256, size=(32, 32, 3), dtype=np.uint8) for n in range(64)]
    exact = sum(len(data) for data in sheets(noise)["data"])
    packed = sheets(noise, budget=exact // 3)
    assert packed["type"] == "image/jpeg"
    assert sum(len(base64.b64decode(data)) for data in packed["data"]) <= exact // 3
    assert sheets([]) is None
