import pytest
from typer.testing import CliRunner

from hydragrad.cli.app import app
from hydragrad.studies import reproduce_estimators
from hydragrad.studies.estimators import HALVES, ROUNDED, chosen_damping

pytest.importorskip("curvlinops")


def test_rows_are_kept_and_every_estimator_has_its_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr("hydragrad.studies.estimators.REPLAYS", (("hessian", 2),))
    monkeypatch.setattr("hydragrad.studies.estimators.DAMPINGS", (0.1,))
    small = {"data": "digits", "networks": ["logistic"], "train_size": 100, "epochs": 1, "groups": 9}
    rows = reproduce_estimators(tmp_path, **small)
    shares = {name: [row.share for row in rows if row.estimator == name] for name in {row.estimator for row in rows}}
    assert shares.pop(ROUNDED) == [0.1, 0.01]
    assert shares.pop(HALVES) == [0.1]
    assert all(each == [0.1, 0.05, 0.01] for each in shares.values())
    damped = "ggn, damping 0.1"
    assert set(shares) == {"none", "hessian", "ggn", damped, "influence functions", "TracIn", "hessian, 2 replays"}
    assert all(-1 <= row.lds_low <= row.lds_high <= 1 and row.trainings > 0 for row in rows)
    # One epoch of logistic regression is smooth: exact derivatives foretell removals, and rounding changes nothing.
    exact = next(row for row in rows if row.estimator == "hessian")
    assert exact.lds > 0.8 and exact.groups == 9
    assert next(row for row in rows if row.estimator == ROUNDED).lds > 0.99
    assert chosen_damping(rows) == damped and chosen_damping([]) is None
    monkeypatch.setattr("hydragrad.studies.estimators._row", lambda *_: pytest.fail("measured again"))
    options = ["--data", "digits", "--networks", "logistic", "--train-size", "100", "--epochs", "1", "--groups", "9"]
    result = CliRunner().invoke(app, ["reproduce", "estimators", "--out", str(tmp_path), *options, "--quiet"])
    assert result.exit_code == 0, result.output
    assert "two halves, summed" in result.output and "(chosen)" in result.output
