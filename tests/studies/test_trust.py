from functools import partial

import pytest
from typer.testing import CliRunner

from hydragrad.errors import Unfinished
from hydragrad.execution import execution_of
from hydragrad.execution.claims import Claims
from studies.__main__ import app
from studies.trust import METHODS, reproduce_trust


@pytest.mark.parametrize("network", ["logistic", "batch-norm"])
def test_a_finished_network_is_not_measured_again(tmp_path, monkeypatch, network):
    small = {"networks": [network], "train_size": 64, "epochs": 2, "groups": 3}
    rows = reproduce_trust(tmp_path, **small)
    assert [row.estimator for row in rows] == [method.in_words for method in METHODS]
    assert all(row.size == 6 and row.lds_mean_loss is not None for row in rows)
    monkeypatch.setattr("studies.trust._measured", lambda *_: pytest.fail("measured again"))
    assert reproduce_trust(tmp_path, **small) == rows
    options = ["--train-size", "64", "--epochs", "2", "--groups", "3", "--networks", network, "--quiet"]
    result = CliRunner().invoke(app, ["trust", "--out", str(tmp_path), *options])
    assert result.exit_code == 0, result.output
    assert "ggn, damping" in result.output


def test_a_slice_goes_on_with_the_next_network_and_says_what_is_missing(tmp_path):
    small = {"networks": ["logistic"], "train_size": 64, "epochs": 1, "groups": 3}
    expected = reproduce_trust(tmp_path / "whole", **small)
    options = ["--train-size", "64", "--epochs", "1", "--groups", "3", "--networks", "logistic", "--quiet"]
    words = ["trust", "--out", str(tmp_path / "sliced"), *options, "--part", "1/2"]
    reproduce = partial(reproduce_trust, tmp_path / "sliced", **small)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Unfinished, match="retrainings are still missing"):
        patch.setattr(Claims, "take", lambda *_: False)  # others work on everything
        reproduce(execution=execution_of(part="2/2"))
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert reproduce() == expected
