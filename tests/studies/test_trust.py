import pytest
from typer.testing import CliRunner

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
