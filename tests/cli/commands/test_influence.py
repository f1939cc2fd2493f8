"""`hydragrad influence`: checkpoints on the command line, scores, suspects and a page in a folder."""

import json
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch.optim import SGD
from torch.utils.data import TensorDataset

import hydragrad as hg
from cli.test_app import hydragrad as hydragrad
from trained_elsewhere.states import data, loss, network, trained_states

HELD_OUT = {"validation": data(12, 1), "test": data(9, 2)}


@pytest.fixture
def files(tmp_path):
    for number, state in enumerate(trained_states(), start=1):
        torch.save(state, tmp_path / f"epoch{number}.pt")
    return [tmp_path / f"epoch{number}.pt" for number in (1, 2, 3)]


def returning(monkeypatch, *parts):
    monkeypatch.setitem(sys.modules, "own", SimpleNamespace(setup=lambda: parts))


@pytest.mark.parametrize("optimizer", [False, True])
def test_scores_suspects_and_a_page_are_written(hydragrad, monkeypatch, tmp_path, files, optimizer):
    model = network()
    returning(monkeypatch, model, loss, data(24, 0), *([SGD(model.parameters(), 0.1)] if optimizer else []), HELD_OUT)
    out = tmp_path / "out"
    words = ("--query", "validation", "--query", "test:4", "--out", out, "--json", tmp_path / "f.json", "--quiet")
    code, printed, err = hydragrad("influence", "--from", "own:setup", *files, *words)
    assert code == 0, err
    checkpoints = hg.Checkpoints(files, network(), loss, data(24, 0))
    expected = hg.influence(checkpoints, hg.mean_loss(HELD_OUT["validation"]))
    scores = hg.Scores.load(out / "scores" / "validation-influence.safetensors")
    torch.testing.assert_close(scores.values, expected.values)
    assert scores.query_names == ("validation loss",) and scores.evidence == expected.evidence
    assert (out / "scores" / "test:4-influence.safetensors").exists()
    suspects = pd.read_csv(out / "suspects.csv")
    assert suspects["sample"].tolist() == hg.suspects(checkpoints, expected)["sample"].tolist()
    assert "trained elsewhere" in (out / "report.html").read_text()
    harmful = expected.most_harmful(5)
    assert ", ".join(map(str, harmful)) in printed and "positive helps" in printed
    assert "averaged over 3 checkpoints of a model trained elsewhere (epoch1.pt, epoch2.pt, epoch3.pt)" in printed
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["validation most harmful"] == harmful and figures["checkpoints"] == 3
    assert figures["digest"] == checkpoints.digest and figures["report"] == str(out / "report.html")


def test_rows_are_made_once_and_answer_later_queries(hydragrad, monkeypatch, tmp_path, files):
    returning(monkeypatch, network(), loss, data(24, 0), HELD_OUT)
    words = (
        "influence",
        "--from",
        "own:setup",
        *files,
        "--rows",
        tmp_path / "rows",
        "--out",
        tmp_path / "out",
        "--quiet",
    )
    code, printed, err = hydragrad(*words, "--query", "validation")
    assert code == 0 and "Rows are of an approximate inverse" in printed, err
    before = (tmp_path / "rows" / "rows.json").read_text()
    code, _, err = hydragrad(*words, "--query", "test")
    assert code == 0 and (tmp_path / "rows" / "rows.json").read_text() == before, err
    checkpoints = hg.Checkpoints(files, network(), loss, data(24, 0))
    expected = hg.influence_rows(checkpoints).contributions(hg.mean_loss(HELD_OUT["test"]))
    scores = hg.Scores.load(tmp_path / "out" / "scores" / "test-influence.safetensors")
    torch.testing.assert_close(scores.values, expected.values)
    for others in (("--damping", 0.5), ("--projection", 20), ("--checkpoints", 2)):
        code, _, err = hydragrad(*words, *others)
        assert code and f"holds rows that differ in: {others[0][2:]}" in err
    code, _, err = hydragrad(*words[:-5], "--projection", 20, "--out", tmp_path / "out")
    assert code and "--projection is of the rows" in err
    code, _, err = hydragrad(*words, "--part", "1/2")
    assert code and "--rows are made in this process" in err


def test_a_loss_without_labels_has_no_suspects_by_label(hydragrad, monkeypatch, tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1).double()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    x = data(24, 0).tensors[0]
    returning(monkeypatch, model, lambda m, b: m(b[0]).square().mean(1), TensorDataset(x))
    code, printed, err = hydragrad(
        *("influence", "--from", "own:setup", tmp_path / "model.pt", "--query", "train", "--out", tmp_path / "out")
    )
    assert code == 0, err
    assert "no suspects: " in printed and not (tmp_path / "out" / "suspects.csv").exists()
    assert (tmp_path / "out" / "report.html").exists()


def test_a_dry_run_forecasts_and_writes_nothing(hydragrad, monkeypatch, tmp_path, files):
    returning(monkeypatch, network(), loss, data(24, 0), HELD_OUT)
    code, printed, _ = hydragrad(
        "influence", "--from", "own:setup", *files, "--out", tmp_path / "out", "--dry-run", "--checkpoints", 2
    )
    assert code == 0 and printed.startswith("forecast: influence will take about")
    assert not (tmp_path / "out").exists()


def refused(hydragrad, tmp_path, *words):
    code, _, err = hydragrad("influence", "--from", "own:setup", *words, "--out", tmp_path / "out", "--quiet")
    assert code == 1 and err.startswith("error: ") and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()
    return err


def test_what_can_not_be_opened_is_named(hydragrad, monkeypatch, tmp_path, files):
    returning(monkeypatch, network(), loss, data(24, 0), HELD_OUT)
    assert "no checkpoint" in refused(hydragrad, tmp_path, files[0], tmp_path / "gone.pt")
    torch.save({"0.weight": torch.zeros(5, 4)}, tmp_path / "other.pt")
    message = refused(hydragrad, tmp_path, files[0], tmp_path / "other.pt")
    assert "other.pt must hold the model's 9 parameters and buffers" in message and "missing: 0.bias" in message
    message = refused(hydragrad, tmp_path, files[0], "--query", "tset")
    assert "--query takes one of validation, test, train, or one sample" in message


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((1, 2), "must return (model, loss, train_set), optionally followed by an optimizer"),
        (("model", loss, data(24, 0)), "The model that own:setup returns must be a torch.nn.Module, got a str"),
        ((network(), 1.0, data(24, 0)), "The loss that own:setup returns must be a function, got a float"),
        ((network(), loss, 5), "data set 'train_set' that own:setup returned must be a map-style data set"),
        ((network(), loss, data(24, 0), {"test": 5}), "data set 'test' that own:setup returned must be a map-style"),
    ],
)
def test_what_the_function_returns_is_checked(hydragrad, monkeypatch, tmp_path, files, parts, message):
    returning(monkeypatch, *parts)
    assert message in refused(hydragrad, tmp_path, files[0])
