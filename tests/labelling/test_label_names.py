"""A cell of a file means a label by its name, or by its number where no class is called by a number."""

import numpy as np
import pytest

from hydragrad.labelling.label_names import LabelNames


@pytest.mark.parametrize(
    ("classes", "cell", "label"),
    [
        (None, "2", 2),
        (None, 2.0, 2),
        (None, np.int64(2), 2),
        (None, "two", "two"),
        (None, "2.5", "2.5"),
        (["a", "b", "c"], " c ", 2),
        (["a", "b", "c"], "2.0", 2),
        (["a", "b", "c"], 1, 1),
        (["3", "2", "1"], "1", 2),
        (["3", "2", "1"], 1, 1),
        (["3", "2", "1"], "0", "0"),
        (["3", "2", "one"], "0", "0"),
        (None, True, True),
    ],
)
def test_cells_mean_labels(classes, cell, label):
    meant = LabelNames({0, 1, 2}, classes).number(cell)
    assert meant == label and type(meant) is type(label)
