import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from small_published import small_published
from studies import dattri, estimates
from studies.__main__ import app
from studies.dattri import DattriSetting, queried_images, reproduce_dattri
from studies.rows import saved_rows

SOME = ("hessian", "ggn of own half", "influence functions", "TracIn")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(dattri, "published", small_published)
    for name, value in {"TRAIN": 40, "TESTS": 20, "QUERIED_TESTS": 10}.items():
        monkeypatch.setattr(dattri, name, value)
    trainings = {name: replace(each, epochs=1, batch_size=10) for name, each in dattri.TRAININGS.items()}
    monkeypatch.setattr(dattri, "TRAININGS", trainings)


def test_what_is_there_is_not_made_again(tmp_path, monkeypatch):
    setting = DattriSetting(model="mlp", subsets=4, ceilings=3, removals=3, queries=2, runs=2, estimators=SOME)
    rows = reproduce_dattri(tmp_path, setting)
    assert {row.estimator for row in rows} == {"ceiling", *SOME}
    assert {(row.metric, row.subsets) for row in rows} == {("LDS", 4), ("LDS", 3), ("LOO", 3)}
    assert {row.runs for row in rows} == {1, 2}
    assert all(abs(row.value) <= 1 + 1e-9 for row in rows)
    monkeypatch.setattr(estimates, "attribute", lambda *_, **__: pytest.fail("attributed again"))
    monkeypatch.setattr("studies.subsets._answers", lambda *_: pytest.fail("trained again"))
    assert reproduce_dattri(tmp_path, setting) == rows
    assert saved_rows(dattri.DattriRow, tmp_path / dattri.ROWS_FILE) == rows


def test_images_to_tune_on_are_others():
    assert queried_images(3, tuning=False) == queried_images(5, tuning=False)[:3]
    assert not set(queried_images(10, tuning=True)) & set(queried_images(10, tuning=False))


def test_the_command_prints_and_writes(tmp_path):
    sizes = ["--subsets", "4", "--ceilings", "0", "--removals", "0", "--queries", "2", "--models", "logistic"]
    asked = ["dattri", "--out", str(tmp_path), "--estimators", "hessian", *sizes, "--quiet"]
    result = CliRunner().invoke(app, [*asked, "--json", str(tmp_path / "figures.json")])
    assert result.exit_code == 0, result.output
    assert "LDS" in result.output
    assert list(json.loads((tmp_path / "figures.json").read_text())) == ["logistic hessian 1 LDS"]
