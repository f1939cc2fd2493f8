import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from small_published import small_published
from studies import bae, estimates
from studies.__main__ import app
from studies.bae import BaeSetting, reproduce_bae

SOME = ("hessian", "ggn of own half", "influence functions", "TracIn")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(bae, "published", small_published)
    monkeypatch.setattr(bae, "TRAIN", 40)
    monkeypatch.setattr(bae, "TESTS", 20)
    monkeypatch.setattr(bae, "TRAINING", replace(bae.TRAINING, epochs=1, batch_size=20))


def test_what_is_there_is_not_made_again(tmp_path, monkeypatch):
    setting = BaeSetting(subsets=3, seeds=2, queries=2, runs=1, estimators=SOME)
    rows = reproduce_bae(tmp_path, setting)
    assert [row.estimator for row in rows] == ["ceiling", *SOME]
    monkeypatch.setattr(estimates, "attribute", lambda *_, **__: pytest.fail("attributed again"))
    monkeypatch.setattr("studies.subsets._answers", lambda *_: pytest.fail("trained again"))
    assert str(reproduce_bae(tmp_path, setting)) == str(rows)


def test_the_command_prints_and_writes(tmp_path):
    sizes = ["--subsets", "3", "--seeds", "1", "--queries", "1", "--estimators", "hessian"]
    asked = ["bae", "--out", str(tmp_path), *sizes, "--quiet"]
    result = CliRunner().invoke(app, [*asked, "--json", str(tmp_path / "figures.json")])
    assert result.exit_code == 0, result.output
    assert list(json.loads((tmp_path / "figures.json").read_text())) == ["hessian 1 lds"]
