import json
from dataclasses import replace
from inspect import signature

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegressionCV
from typer.testing import CliRunner

from hydragrad.trust import counterfactual
from studies import hara
from studies.__main__ import app
from studies.hara import ESTIMATORS, reproduce_hara

pytestmark = pytest.mark.skipif(
    "use_legacy_attributes" not in signature(LogisticRegressionCV).parameters,
    reason="the study is written for a newer scikit-learn than the package needs",
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    generator = np.random.default_rng(0)
    labels = np.repeat([0.0, 1.0], 60)
    pixels = generator.uniform(size=(120, 784)) * (generator.uniform(size=784) < 0.03) + 0.3 * labels[:, None]
    monkeypatch.setattr(hara, "_ones_and_sevens", lambda _: (pixels, labels))
    monkeypatch.setattr(hara, "SAMPLES", 20)
    monkeypatch.setattr(hara, "MODELS", {name: replace(each, epochs=1) for name, each in hara.MODELS.items()})


def test_what_is_there_is_not_made_again(tmp_path, monkeypatch):
    rows = reproduce_hara(tmp_path, seeds=[3])
    assert [(row.model, row.estimator) for row in rows] == [(m, e) for m in hara.MODELS for e in ESTIMATORS]
    assert all(-1 <= row.tau <= 1 and 0 <= row.jaccard <= 1 for row in rows)
    # A few steps of logistic regression on which single samples change little: exact derivatives are near the truth.
    assert next(row.tau for row in rows if (row.model, row.estimator) == ("logistic", "hessian")) > 0.8
    monkeypatch.setattr(hara, "_measured", lambda *_: pytest.fail("measured again"))
    assert reproduce_hara(tmp_path, seeds=[3]) == rows


def test_removals_are_those_of_runs_without_a_sample(tmp_path):
    pixels, labels = hara._ones_and_sevens(None)
    problem = hara._problem("dnn", pixels, labels, 0)
    actual = hara._really_left_out("dnn", problem, 0)
    run = hara._recorded(hara.MODELS["dnn"], problem, 0, tmp_path, inside=True)
    again = counterfactual(run, [[4], [7]], hara._validation_loss(problem.validation))
    assert np.abs(actual).max() > 1e-5
    np.testing.assert_allclose(again.values[0].numpy(), actual[[4, 7]], rtol=1e-6, atol=1e-12)


def test_the_command_prints_and_writes(tmp_path):
    asked = ["hara", "--out", str(tmp_path), "--seeds", "1", "--models", "logistic", "--quiet"]
    result = CliRunner().invoke(app, [*asked, "--estimators", "hessian", "--json", str(tmp_path / "figures.json")])
    assert result.exit_code == 0, result.output
    assert set(json.loads((tmp_path / "figures.json").read_text())) == {
        "logistic hessian tau",
        "logistic hessian jaccard",
    }
