from dataclasses import replace

import pytest
from typer.testing import CliRunner

from hydragrad.errors import UnknownName
from studies.__main__ import app
from studies.estimates import OVER_TRAINING
from studies.estimator_rows import chosen_damping, summary
from studies.estimators import HALVES, KINDS, ROUNDED, ROWS_FILE, reproduce_estimators
from studies.rows import append_rows


def test_rows_are_kept_and_every_estimator_has_its_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr("studies.estimators.DAMPINGS", (0.1,))
    kinds = [kind for kind in KINDS if kind != "ggn-replays"]
    small = {"data": "digits", "networks": ["logistic"], "train_size": 100, "epochs": 1, "groups": 9}
    rows = reproduce_estimators(tmp_path, **small, kinds=kinds, replays=[2])
    shares = {name: [row.share for row in rows if row.estimator == name] for name in {row.estimator for row in rows}}
    assert shares.pop(ROUNDED) == [0.1, 0.01]
    assert shares.pop(HALVES) == [0.1]
    assert all(each == [0.1, 0.05, 0.01] for each in shares.values())
    damped = "ggn, damping 0.1"
    influence = {"influence functions", OVER_TRAINING}
    assert set(shares) == {"none", "hessian", "ggn", damped, *influence, "TracIn", "hessian, 2 replays"}
    assert all(-1 <= row.lds_low <= row.lds_high <= 1 and row.trainings > 0 for row in rows)
    # One epoch of logistic regression is smooth: exact derivatives foretell removals, and rounding changes nothing.
    exact = next(row for row in rows if row.estimator == "hessian")
    assert exact.lds > 0.8 and exact.groups == 9
    assert next(row for row in rows if row.estimator == ROUNDED).lds > 0.99
    assert chosen_damping(rows) == damped and chosen_damping([]) is None
    # Rows alone are enough to go on: nothing is trained where nothing is missing.
    monkeypatch.setattr("studies.estimators._row", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr("studies.removals.train", lambda *_: pytest.fail("trained again"))
    options = ["--data", "digits", "--networks", "logistic", "--train-size", "100", "--epochs", "1", "--groups", "9"]
    options += ["--estimators", ",".join(kinds), "--replays", "2", "--rows", str(tmp_path / ROWS_FILE)]
    command = ["estimators", "--out", str(tmp_path / "elsewhere"), *options, "--quiet"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "two halves, summed" in result.output and "(chosen)" in result.output


def test_a_call_goes_on_after_rows_of_another_and_runs_are_pooled(tmp_path):
    small = {"data": "digits", "networks": ["logistic"], "train_size": 100, "epochs": 1, "groups": 9}
    first = reproduce_estimators(tmp_path, **small, kinds=["none"], shares=[0.1])
    assert [(row.estimator, row.share) for row in first] == [("none", 0.1)]
    file = tmp_path / ROWS_FILE
    kept = file.read_bytes()
    rows = reproduce_estimators(tmp_path, **small, seeds=(0, 1), kinds=["none", "ggn"], shares=[0.1, 0.01])
    assert file.read_bytes().startswith(kept) and len(rows) == 8 and rows[0] == first[0]
    pooled = summary(rows)
    assert [(each.estimator, each.share, each.runs) for each in pooled] == [
        ("none", 0.1, 2),
        ("ggn", 0.1, 2),
        ("none", 0.01, 2),
        ("ggn", 0.01, 2),
    ]
    assert pooled[0].lds.tolist() == [row.lds for row in rows if (row.estimator, row.share) == ("none", 0.1)]
    # Another size is another study, in the same file.
    other = reproduce_estimators(tmp_path, **small | {"epochs": 2}, kinds=["none"], shares=[0.1])
    assert [row.epochs for row in other] == [2] and other[0].trainings != first[0].trainings


def test_rows_of_a_run_from_elsewhere_are_told_apart(tmp_path):
    small = {"data": "digits", "networks": ["logistic"], "train_size": 100, "epochs": 1, "groups": 9}
    (row,) = reproduce_estimators(tmp_path / "a", **small, kinds=["none"], shares=[0.1])
    append_rows(tmp_path / "rows.jsonl", [replace(row, test_accuracy=0.123)])
    given = small | {"shares": [0.1], "rows_file": tmp_path / "rows.jsonl"}
    with pytest.warns(UserWarning, match="of a run with test accuracy 0.1230; the same seed gives"):
        rows = reproduce_estimators(tmp_path / "a", **given, kinds=["none", "ggn"])
    assert [row.estimator for row in rows] == ["none", "ggn"]


def test_replays_that_are_no_numbers_are_refused(tmp_path):
    result = CliRunner().invoke(app, ["estimators", "--out", str(tmp_path), "--replays", "2,x"])
    assert isinstance(result.exception, UnknownName) and "got 2,x" in str(result.exception)
