"""Labels of a new run, and a training that never started."""

import torch
from safetensors.torch import save_file

from cli.test_app import hydragrad as hydragrad
from hydragrad.cleaning import load_labels
from hydragrad.errors import NonFinite

WORDS = ("train", "--data", "digits", "--model", "lenet5", "--train-size", 40, "--epochs", 1, "--quiet")


def test_a_training_that_never_starts_leaves_nothing(hydragrad, tmp_path):
    run = tmp_path / "run"
    code, _, err = hydragrad(*WORDS, "--noise", 0.5, "--lr", 1e38, "--out", run)
    assert code == 1
    assert "diverged" in err or "NaN" in err
    assert not run.exists()
    code, _, err = hydragrad(*WORDS, "--out", run)
    assert code == 0, err
    assert load_labels(run) is None


def test_one_that_was_killed_before_its_first_step_is_replaced_with_its_labels(hydragrad, tmp_path, monkeypatch):
    run = tmp_path / "run"

    def stopped(*_args, **_options):
        raise NonFinite("stop")

    with monkeypatch.context() as patch:
        patch.setattr("hydragrad.recording.recorder.clear_away", lambda path: None)  # as SIGKILL leaves it
        patch.setattr("hydragrad.training.loop.batch_losses", stopped)
        hydragrad(*WORDS, "--noise", 0.5, "--out", run)
    assert (run / "manifest.json").exists() and load_labels(run) is not None
    code, _, err = hydragrad(*WORDS, "--noise", 0.2, "--out", run)
    assert code == 0, err
    assert int(load_labels(run).flipped.sum()) < 15


def test_labels_of_another_run_are_not_overwritten(hydragrad, tmp_path):
    labels = {"given": torch.zeros(40, dtype=torch.int64), "true": torch.ones(40, dtype=torch.int64)}
    save_file(labels, tmp_path / "labels.safetensors")
    before = (tmp_path / "labels.safetensors").read_bytes()
    for noise in (0, 0.5):
        code, _, err = hydragrad(*WORDS, "--noise", noise, "--out", tmp_path)
        assert code == 1
        assert "holds the labels of another run" in err and "--out" in err
    assert [path.name for path in tmp_path.iterdir()] == ["labels.safetensors"]
    assert (tmp_path / "labels.safetensors").read_bytes() == before


def test_the_labels_of_this_run_may_lie_there(hydragrad, tmp_path):
    """A kill between the labels and the manifest leaves them."""
    hydragrad(*WORDS, "--noise", 0.5, "--out", tmp_path / "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "labels.safetensors").rename(tmp_path / "two" / "labels.safetensors")
    code, _, err = hydragrad(*WORDS, "--noise", 0.5, "--out", tmp_path / "two")
    assert code == 0, err
