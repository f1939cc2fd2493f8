"""Contributions over training time: means of groups, and the stretches of single samples."""

import base64
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from hydragrad.reports.over_time import over_time


def test_groups_and_single_samples(run, scores):
    parts = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(0))
    order = torch.argsort(scores.values[1])
    listed = pd.DataFrame({"sample": order, "contribution": scores.values[1][order], "flipped": torch.arange(40) < 5})
    assert over_time(run, scores, 1, listed, [3], 1.0) is None, "they do not tell"
    told = over_time(run, replace(scores, over_time=parts), 1, listed, [7, 3], 0.5)
    assert told["unit"] == "epoch" and told["ends"] == [1, 2, 3]
    means = {group["name"]: group["mean"] for group in told["groups"]}
    assert list(means) == ["all samples", "the 1 most harmful", "the 1 most helpful", "wrong labels"]
    assert means["all samples"] == pytest.approx((parts[1].double().mean(1) / 2).tolist())
    assert means["wrong labels"] == pytest.approx((parts[1][:, order[:5]].double().mean(1) / 2).tolist())
    values = np.frombuffer(base64.b64decode(told["values"]["f4"]), "<f4").reshape(2, 3)
    np.testing.assert_array_equal(values, parts[1][:, [7, 3]].T / 2)
    other = over_time(run, replace(scores, over_time=parts[:, :2]), 1, listed, [3], 1.0)
    assert other["unit"] == "stretch of the training, 1 to 2"
