import pytest
from typer.testing import CliRunner

from studies.__main__ import app
from studies.convergence import PICTURE, reproduce_convergence


def test_means_over_more_runs_agree_better(tmp_path, monkeypatch):
    small = {"data": ["digits"], "network": "logistic", "runs": 4, "retrained": 2, "groups": 4, "train_size": 100}
    rows = reproduce_convergence(tmp_path, **small, epochs=1, curvatures=["none"])
    (row,) = rows
    assert len(row.measured) == len(row.foretold) == 2
    assert row.measured[0] < row.measured[1] and row.foretold[0] == pytest.approx(row.single)
    assert 0 < row.certain < 1 and row.groups == 4
    assert None not in (row.one_to_own, row.one_to_mean, row.all_to_mean, row.own_to_mean)
    assert (tmp_path / PICTURE).exists()
    monkeypatch.setattr("studies.convergence._measured", lambda *_: pytest.fail("measured again"))
    options = [
        "--data",
        "digits",
        "--network",
        "logistic",
        "--curvatures",
        "none",
        "--train-size",
        "100",
        "--runs",
        "4",
        "--epochs",
        "1",
    ]
    result = CliRunner().invoke(app, ["convergence", "--out", str(tmp_path), *options, "--quiet"])
    assert result.exit_code == 0, result.output
    assert "digits, logistic" in result.output
