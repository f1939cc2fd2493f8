import json

import pytest
from typer.testing import CliRunner

from hydragrad.errors import PresentationError
from studies import figure1
from studies.__main__ import app
from studies.figure1 import reproduce_figure1
from studies.growth_figure import growth


def test_a_kept_measurement_is_not_made_again(tmp_path, monkeypatch):
    made = []
    real = figure1._timing
    monkeypatch.setattr(figure1, "_timing", lambda *job: made.append(job) or real(*job))
    first = reproduce_figure1(tmp_path, models=["lenet5"], counts=[70])
    assert [(row.kind, row.tracked) for row in first.timings] == [("plain", 0), ("tracker", 70), ("eager", 70)]
    assert first.picture.stat().st_size > 10_000
    assert len(made) == 3

    again = reproduce_figure1(tmp_path, models=["lenet5"], counts=[70, 80], memory=71 * 61_706 * 8)
    assert len(made) == 4  # only the tracker with 80: the eager one with 80 does not fit
    assert again.left_out == (("lenet5", 80),)
    assert again.timings[:3] == first.timings


def test_the_command_prints_and_writes(tmp_path):
    asked = ["figure1", "--out", str(tmp_path), "--models", "lenet5", "--counts", "70", "--quiet"]
    result = CliRunner().invoke(app, [*asked, "--json", str(tmp_path / "figures.json")])
    assert result.exit_code == 0, result.output
    assert "61,706" in result.output
    assert json.loads((tmp_path / "figures.json").read_text())["lenet5_eager_70_seconds"] > 0


def test_the_command_names_what_it_does_not_know(tmp_path):
    result = CliRunner().invoke(app, ["figure1", "--out", str(tmp_path), "--models", "resnet"])
    assert "resnet" in str(result.exception)


def test_growth_wants_tracked_steps():
    with pytest.raises(PresentationError, match="At least one timing"):
        growth([])
