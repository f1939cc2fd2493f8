"""Labels of a new run, and a training that never started."""

import shutil
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch.optim import AdamW

from cli.test_app import hydragrad as hydragrad
from hydragrad import cli
from hydragrad.cleaning import load_labels
from hydragrad.errors import NonFinite
from hydragrad.experiments.from_settings import open_run
from hydragrad.steps import RULES
from recording.toys import digest, train

WORDS = ("train", "--data", "digits", "--model", "lenet5", "--train-size", 40, "--epochs", 1, "--quiet")


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A run of WORDS with half of the labels flipped."""
    run = tmp_path_factory.mktemp("noisy") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hydragrad", *map(str, WORDS), "--noise", "0.5", "--out", str(run)])
        with pytest.raises(SystemExit):
            cli.main()
    return run


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
        patch.setattr("hydragrad.recording.run_writer.clear_away", lambda path: None)  # as SIGKILL leaves it
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


def test_sizes_of_the_held_out_parts_are_kept_with_the_run(hydragrad, tmp_path):
    run = tmp_path / "run"
    code, _, err = hydragrad(*WORDS, "--validation-size", 30, "--test-size", 20, "--out", run)
    assert code == 0, err
    experiment, recording = open_run(run, data_dir=None)
    assert {name: len(part) for name, part in experiment.held_out.items()} == {"validation": 30, "test": 20}
    assert 20 * experiment.test_accuracy(recording.trained_model()) % 1 == 0
    code, _, err = hydragrad("attribute", run, "--query", "test:20", "--quiet")
    assert code == 1
    assert "0 to 19" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--train-size", 30), "train_size: 40 then, 30 now"),
        (("--noise", 0.2), "noise: 0.5 then, 0.2 now"),
        (("--lr", 0.5), "lr: None then, 0.5 now"),
        (("--seed", 3), "seed: 0 then, 3 now"),
        (("--model", "mobilenetv2"), "model: lenet5 then, mobilenetv2 now"),
        (("--optimizer", "adamw"), "optimizer: sgd then, adamw now"),
    ],
)
def test_another_training_is_not_resumed(hydragrad, noisy, words, message):
    before = digest(noisy)
    code, _, err = hydragrad(*WORDS, "--noise", 0.5, "--out", noisy, "--resume", *words)
    assert code == 1
    assert message in err and "--resume" in err and "Traceback" not in err
    assert digest(noisy) == before


def test_a_run_of_python_is_not_resumed(hydragrad, tmp_path):
    train(tmp_path)
    code, _, err = hydragrad(*WORDS, "--out", tmp_path, "--resume")
    assert code == 1
    assert "recorded from Python" in err and "resume=True" in err


def test_a_run_of_adamw_is_reopened_and_resumed_with_adamw(hydragrad, tmp_path):
    code, _, err = hydragrad(*WORDS, "--optimizer", "adamw", "--out", tmp_path)
    assert code == 0, err
    experiment, run = open_run(tmp_path, data_dir=None)
    assert experiment.settings.optimizer == "adamw"
    assert run.manifest.optimizers == [RULES[AdamW].name]
    assert type(experiment.start(0).optimizer) is AdamW
    code, _, err = hydragrad(*WORDS, "--out", tmp_path, "--resume")
    assert code == 1 and "optimizer: adamw then, sgd now" in err
    code, _, err = hydragrad(*WORDS, "--optimizer", "adamw", "--epochs", 2, "--out", tmp_path, "--resume")
    assert code == 0, err
    assert len(open_run(tmp_path, data_dir=None)[1].steps) == 2 * len(run.steps)


@pytest.mark.parametrize("damage", ["flipped byte", "cut off"])
def test_labels_that_are_altered_are_told(hydragrad, noisy, tmp_path, damage):
    shutil.copytree(noisy, tmp_path / "run")
    file = tmp_path / "run" / "labels.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # of the true labels, which nothing else knows
    file.write_bytes(content if damage == "flipped byte" else content[:-9])
    code, _, err = hydragrad("clean", tmp_path / "run", "--quiet")
    assert code == 1
    assert "labels.safetensors can't be read" in err and "Restore it" in err and "Traceback" not in err
