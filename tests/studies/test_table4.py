"""Table 4: kinds of noise, what is kept, and figures that agree with the ranking they speak of."""

import json

import pytest
import torch
from torch.utils.data import TensorDataset
from typer.testing import CliRunner

import hydragrad as hg
from hydragrad.cleaning import area_under_roc, suspects
from studies import noisy_run
from studies.__main__ import app
from studies.noisy_run import NoisyRun, Setting
from studies.table4 import KNOWN, Row, reproduce_table4, summary

SETTING = Setting(data="digits", noise="0.3", size=120, epochs=2, seed=0, lr=0.05)
METHODS = ("hydragrad", "HYDRA", "small loss", "self-confidence")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("table4")
    return out, reproduce_table4(out, SETTING, methods=METHODS, filtering=("hydragrad",))


def row_of(rows, method, action):
    (found,) = [row for row in rows if (row.method, row.action) == (method, action)]
    return found


def test_every_method_is_ranked_and_one_cleaned_after(study):
    _, rows = study
    assert [row.method for row in rows if row.action == "rank"] == list(METHODS)
    wrong = row_of(rows, "no filtering", "nothing").wrong
    assert 30 <= wrong <= 36  # the floor of 30 % of each of ten classes
    assert row_of(rows, "hydragrad", KNOWN).changed == wrong
    for action in ("remove suspects", "relabel suspects"):
        assert 0 < row_of(rows, "hydragrad", action).changed < 120
    assert all(0 <= row.accuracy <= 1 for row in rows if row.action != "rank")


def test_figures_are_those_of_the_default_suspects(study):
    out, rows = study
    case = NoisyRun(SETTING, out / SETTING.name, None, 1)
    ranked = suspects(case.run, case.scores("validation", "none"), held_out=case.query("validation"))
    assert row_of(rows, "hydragrad", "rank").auc == pytest.approx(area_under_roc(ranked), abs=1e-9)


def test_finished_measurements_are_not_made_again(study, monkeypatch):
    out, rows = study
    monkeypatch.setattr(noisy_run, "fit", lambda *_: pytest.fail("trained twice"))
    assert reproduce_table4(out, SETTING, methods=METHODS, filtering=("hydragrad",)) == rows


def test_a_later_seed_is_measured_by_itself(tmp_path):
    figures = tmp_path / "figures.json"
    options = {"--data": "digits", "--train-size": 100, "--epochs": 1, "--first-seed": 3, "--seeds": 2}
    options |= {"--methods": "small loss", "--filtering": "none", "--out": tmp_path, "--json": figures}
    words = [str(word) for option in options.items() for word in option]
    result = CliRunner().invoke(app, ["table4", *words, "--no-references", "--quiet"])
    assert result.exit_code == 0, result.output
    found = json.loads(figures.read_text())
    assert [key.split()[0] for key in found] == [f"digits-0.5-100-lenet5-e1-s{seed}" for seed in (3, 4)]


def test_the_summary_gives_mean_and_spread():
    rows = [
        Row(setting="a", method="m", action="rank", wrong=1, samples=2, auc=auc, found_10=0.1, found_20=0.2)
        for auc in (0.8, 0.9)
    ]
    rows.append(Row(setting="a", method="m", action="remove suspects", wrong=1, samples=2, accuracy=0.5))
    (line,) = summary(rows).itertuples(index=False)
    assert list(line) == ["m", "1", "0.8500 ± 0.0707", "0.100 ± 0.000", "0.200 ± 0.000", "-", "-", "50.00", "-"]


def test_failures_are_what_the_network_gets_wrong(study):
    out, _ = study
    case = NoisyRun(SETTING, out / SETTING.name, None, 1)
    images, labels = case.validation.tensors
    wrong = case.run.trained_model()(images).argmax(1) != labels
    assert 0 < int(wrong.sum()) < len(labels)
    own = hg.attribute(case.run, hg.mean_loss(TensorDataset(images[wrong], labels[wrong])))
    assert torch.allclose(case.scores("failures", "none").values, own.values, rtol=1e-4, atol=1e-7)
