"""Labels by number and by name."""

import numpy as np
import pytest

from hydragrad.errors import PresentationError
from hydragrad.reports.labels import NONE, label_names


def test_numbers_words_and_gaps():
    named = label_names([[3, 1, np.nan], [None, "other"]], None)
    assert named.values == (1, 3, "other") and named.names == ("1", "3", "other")
    assert named.codes([1.0, "other", None, np.nan, np.int64(3)]).tolist() == [0, 2, NONE, NONE, 1]


def test_named_ones_are_all_there_and_so_are_those_that_the_model_tells_apart():
    assert label_names([[1]], ["a", "b", "c"]).names == ("a", "b", "c")
    assert label_names([[1]], None, count=3).values == (0, 1, 2)
    with pytest.raises(PresentationError, match="Label 5 has no name: classes names 2 labels"):
        label_names([[5]], ["a", "b"])
    with pytest.raises(PresentationError, match="more than a page can list"):
        label_names([range(70_000)], None)
