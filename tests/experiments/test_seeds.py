"""--seeds: this run and those of the seeds that follow, as one mean with intervals."""

import json

import pytest

import hydragrad as hg
from hydragrad.cli import main


@pytest.fixture
def hydragrad(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr("sys.argv", ["hydragrad", *map(str, words), "--quiet"])
        with pytest.raises(SystemExit) as exit_:
            main()
        assert not exit_.value.code
        return capsys.readouterr().out

    return call


def test_seeds_give_means_with_standard_errors(hydragrad, tmp_path):
    hydragrad("train", "--from", "own_training:setup", "--epochs", 2, "--out", "own")
    printed = hydragrad("attribute", "own", "--seeds", 3)
    assert "±" in printed and "Means over 3 independent runs (seeds 0, 1, 2)" in printed
    scores = hg.Scores.load(tmp_path / "own" / "scores" / "validation-none-seeds3.safetensors")
    assert scores.evidence.seeds == 3 and (scores.standard_errors > 0).all()
    # The run itself is one of them; only the others were trained.
    assert sorted(each.name for each in (tmp_path / "own" / "seeds").iterdir()) == ["seed-1", "seed-2"]
    printed = hydragrad("verify", "own", "--seeds", 2, "--groups", 3, "--size", "0.1", "--curvature", "hessian")
    assert "LDS" in printed
    kept = [
        len(list((run / "retrained").iterdir())) for run in (tmp_path / "own", tmp_path / "own" / "seeds" / "seed-1")
    ]
    assert kept == [5, 5]


def test_smoothness_says_how_to_ask(hydragrad, tmp_path):
    hydragrad("train", "--from", "own_training:setup", "--epochs", 2, "--out", "own")
    printed = hydragrad("smoothness", "own", "--directions", 1, "--json", "out.json")
    assert "cosine" in printed and "next: hydragrad attribute own --query validation --curvature hessian" in printed
    assert json.loads((tmp_path / "out.json").read_text())["recommended"] == "hessian"
    assert (tmp_path / "own" / "smoothness.json").exists()
