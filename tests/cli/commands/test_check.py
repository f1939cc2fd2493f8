"""`hydragrad check`: the table in the terminal, and its exit code."""

import json
import sys
from types import SimpleNamespace

import pytest
from torch.optim import SGD, Rprop

from cli.test_app import hydragrad as hydragrad
from experiments.test_own_function import EMPTY, REFUSED
from recording.toys import build, loss, samples


def own(monkeypatch, **change):
    """A module of the user's, whose function returns a toy with some things replaced."""

    def setup():
        model = change.get("model") or build()
        optimizer = change.get("optimizer") or SGD(model.parameters(), lr=0.1)
        optimizer = optimizer(model) if not isinstance(optimizer, SGD | str) else optimizer
        return model, change.get("loss", loss), change["data"] if "data" in change else samples(), optimizer

    monkeypatch.setitem(sys.modules, "own", SimpleNamespace(setup=setup))


def test_a_setup_that_can_be_recorded_is_told_with_routes_and_costs(hydragrad, monkeypatch, tmp_path):
    own(monkeypatch)
    options = ("--batch-size", 5, "--clip-norm", 0.01, "--accumulate", 2, "--bf16", "--epochs", 4)
    words = ("check", "--from", "own:setup", *options, "--json", tmp_path / "check.json", "--quiet")
    code, out, err = hydragrad(*words)
    assert code == 0, err
    assert "This setup can be recorded, and every mode works." in out
    assert "to norm 0.01; acted in 2 of 2 steps" in out and "autocast to bfloat16" in out
    assert "2 batches a step" in out and "costs: of 12 steps on 22 samples" in out
    figures = json.loads((tmp_path / "check.json").read_text())
    assert figures["recordable"] and figures["mode.none.route"] == "sweep" and figures["mode.none.ratio"] >= 0
    assert [file.name for file in tmp_path.iterdir()] == ["check.json"]


@pytest.mark.parametrize("name", ["no model", "no data", "one number", "half", "Rprop"])
def test_a_refused_setup_ends_with_1_and_the_table_says_why(hydragrad, monkeypatch, tmp_path, name):
    own(monkeypatch, **REFUSED[name][0])
    code, out, err = hydragrad("check", "--from", "own:setup", "--json", tmp_path / "check.json", "--quiet")
    assert (code, err) == (1, "")
    assert "This setup can't be recorded as it is: see " in out
    assert not json.loads((tmp_path / "check.json").read_text())["recordable"]


def test_what_is_empty_or_of_another_size_is_named(hydragrad, monkeypatch):
    own(monkeypatch, data=EMPTY)
    assert "The training set is empty" in hydragrad("check", "--from", "own:setup")[1]
    code, out, _ = hydragrad("check", "--from", "own_training:wrong")
    assert code == 1 and "it returned 2 things" in out


def test_data_and_model_by_name(hydragrad):
    words = (
        "--data",
        "digits",
        "--model",
        "lenet5",
        "--optimizer",
        "adamw",
        "--train-size",
        20,
        "--batch-size",
        4,
        "--drop-last",
    )
    code, out, err = hydragrad("check", *words, "--quiet")
    assert code == 0, err
    assert "LeNet5: 61,706 parameters" in out and "AdamW moves every coordinate in its own way" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Say what to check"),
        (("--data", "mnst", "--model", "lenet5"), "choose one of: mnist, fashion"),
        (("--data", "digits", "--model", "lenet"), "choose one of: lenet5"),
        (("--from", "own_training:setup", "--data", "digits"), "are for data sets by name, not for --from"),
        (("--from", "no_such_module:f"), "no module 'no_such_module'"),
    ],
)
def test_mistakes_are_one_line(hydragrad, words, message):
    code, _, err = hydragrad("check", *words)
    assert code == 1 and err.startswith("error: ") and message in err and err.count("\n") == 1


def test_an_optimizer_without_a_rule_is_refused_and_the_rest_is_checked(hydragrad, monkeypatch):
    own(monkeypatch, optimizer=lambda model: Rprop(model.parameters()))
    code, out, _ = hydragrad("check", "--from", "own:setup", "--batch-size", 5, "--quiet")
    assert code == 1 and "with SGD in the optimizer's place" in out and "every layer has a rule" in out
