import base64
import re
from xml.etree import ElementTree

import numpy as np

from hydragrad.figures import accuracy_bars, contribution_histogram, data_uri, for_dark_pages, to_png, to_svg
from hydragrad.figures.style import ON_DARK


def test_svg_is_the_same_every_time_and_holds_no_date() -> None:
    first, second = (
        to_svg(contribution_histogram(np.linspace(-1, 1, 9), marked=np.arange(9) < 3, query="q")) for _ in range(2)
    )
    assert first == second
    assert ElementTree.fromstring(first).tag.endswith("svg")
    assert "date" not in first and "DTD" not in first


def test_dark_svg_holds_no_light_colour() -> None:
    figure = accuracy_bars({"a": 0.3, "b": 0.9})
    light, dark = to_svg(figure), for_dark_pages(to_svg(figure))
    used = set(re.findall(r"#[0-9a-f]{6}", light))
    assert len(used) > 2 and used <= set(ON_DARK), "a colour that has no counterpart on a dark page"
    assert set(re.findall(r"#[0-9a-f]{6}", dark)) == {ON_DARK[colour] for colour in used}


def test_png_is_the_same_every_time() -> None:
    first, second = (to_png(accuracy_bars({"a": 0.5}), dpi=50) for _ in range(2))
    assert first == second and first.startswith(b"\x89PNG")


def test_data_uri_holds_the_content() -> None:
    uri = data_uri("<svg/>", "image/svg+xml")
    assert uri.startswith("data:image/svg+xml;base64,")
    assert base64.b64decode(uri.split(",")[1]) == b"<svg/>"
