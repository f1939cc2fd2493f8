"""Pictures in a terminal, with and without colour."""

import numpy as np

from hydragrad.cli.terminal_pictures import half_blocks, shades


def test_pictures_are_half_blocks():
    picture = np.zeros((8, 8), dtype=np.uint8)
    picture[:4] = 255
    text = half_blocks(picture, width=4)
    assert text.plain == "▀▀▀▀\n▀▀▀▀"
    assert {str(span.style) for span in text.spans} == {"#ffffff on #ffffff", "#000000 on #000000"}


def test_pictures_without_colour_are_shades():
    picture = np.zeros((8, 8), dtype=np.uint8)
    picture[:4] = 255
    assert shades(picture, width=4).plain == "████\n    "
