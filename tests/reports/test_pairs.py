"""Groups and pairs that are of other data, or of nothing, are refused before the page is written."""

import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

from hydragrad.errors import PresentationError, QueryError
from hydragrad.reports import report

GROUP = {
    "given": [0],
    "suggested": [1],
    "size": [2],
    "agreement": [0.5],
    "contribution": [-1.0],
    "representatives": [(3,)],
    "samples": [(3, 6)],
}
PAIR = {
    "sample": [1],
    "other": [2],
    "same_input": [False],
    "nearness": [0.5],
    "gradient_cosine": [0.5],
    "input_cosine": [1.0],
}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"samples": [(3, 4000)]}, "must be a scored one"),
        ({"samples": [(3, 3)]}, "in one group"),
        ({"samples": None}, "samples is missing"),
    ],
    ids=["unknown", "twice", "missing"],
)
def test_groups_of_other_samples_are_refused(run, scores, report_path, change, match):
    groups = pd.DataFrame({name: value for name, value in (GROUP | change).items() if value is not None})
    with pytest.raises(PresentationError, match=match):
        report(run, scores, report_path, groups=groups)


def test_pairs_of_other_data_are_refused(run, scores, report_path):
    test_set = TensorDataset(torch.zeros(2, 5), torch.zeros(2, dtype=torch.long))
    pairs = pd.DataFrame(PAIR)
    with pytest.raises(PresentationError, match="names sample 40"):
        report(run, scores, report_path, duplicates=pairs.assign(sample=40))
    with pytest.raises(PresentationError, match="names other 2; there are samples 0 to 1"):
        report(run, scores, report_path, leaks=pairs, test_set=test_set)
    with pytest.raises(PresentationError, match="nearness is missing"):
        report(run, scores, report_path, duplicates=pairs.drop(columns="nearness"))
    pairs.attrs["held_out"] = True
    with pytest.raises(PresentationError, match="duplicates holds the other ones"):
        report(run, scores, report_path, duplicates=pairs)
    with pytest.raises(QueryError, match="Pass those data as well"):
        report(run, scores, report_path, leaks=pairs)
