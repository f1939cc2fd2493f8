"""The demo, whole, on a few samples for two epochs."""

import json
from dataclasses import replace

import pytest

from cli.test_app import hydragrad as hydragrad
from hydragrad.cli.commands import demo, demo_check


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo, "SETTINGS", replace(demo.SETTINGS, train_size=100, epochs=2))
    for name, value in {"HARMFUL": (3,), "HELPFUL": (3,), "RANDOM_GROUPS": 1, "RANDOM_SIZE": 5}.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo_check, "WORKERS", 1)
    monkeypatch.setattr(demo, "PROJECTION", 16)


def test_it_tells_the_whole_story_and_can_be_repeated(hydragrad, small, tmp_path):
    words = ("demo", "--out", tmp_path / "demo", "--quiet", "--json", tmp_path / "figures.json")
    code, out, err = hydragrad(*words)
    assert code == 0, err
    assert "without the 3 most harmful" in out and "without 5 random ones (1)" in out
    assert "suspects down-weighted" in out and "(AUC)" in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {"auc", "found_in_first_20_percent", "test_accuracy_noisy", "test_accuracy_cleaned"} <= figures.keys()
    assert figures["actual_0"] != 0 and len([name for name in figures if name.startswith("predicted_")]) == 3
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "hydragrad demo" in page
    hydragrad(*words)
    again = json.loads((tmp_path / "figures.json").read_text())
    assert again == figures, "the same figures the second time"


def test_a_run_that_is_no_demo_is_left_alone(hydragrad, small, tmp_path):
    run = tmp_path / "run"
    hydragrad(
        *("train", "--data", "digits", "--model", "lenet5", "--train-size", 60),
        *("--epochs", 1, "--out", run, "--quiet"),
    )
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    code, _, err = hydragrad("demo", "--out", run)
    assert code == 1
    assert "holds a run that is no demo" in err and "--out" in err
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before
