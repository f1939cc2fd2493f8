from xml.etree import ElementTree

import numpy as np

from hydragrad.figures import contribution_histogram, to_svg


def test_the_svg_is_the_same_every_time_and_has_no_date() -> None:
    first, second = (
        to_svg(contribution_histogram(np.linspace(-1, 1, 9), marked=np.arange(9) < 3, query="q")) for _ in range(2)
    )
    assert first == second
    assert ElementTree.fromstring(first).tag.endswith("svg")
    assert "date" not in first and "DTD" not in first
