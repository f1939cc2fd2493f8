"""`hydragrad clean --labels`: labels that a person fixed in the report are trained on."""

import json

import pandas as pd
import pytest
import torch

import hydragrad as hg
import own_labels
from cli.test_app import hydragrad as hydragrad
from cli.test_app import trained as trained
from hydragrad.cleaning import load_labels
from hydragrad.experiments.from_settings import open_run
from hydragrad.training import loop


@pytest.fixture
def marks(trained, tmp_path):
    """A file as the report saves it: five flipped labels fixed, one right label fine."""
    labels, run = load_labels(trained), open_run(trained, data_dir=None)[1]
    wrong = labels.flipped.nonzero().flatten()[:5].tolist()
    fine = int((~labels.flipped).nonzero()[0])
    entries = [
        {"sample": i, "mark": mark, "given_label": int(labels.given[i]), "label": int(labels.true[i])}
        for i, mark in [*((i, "fixed") for i in wrong), (fine, "fine")]
    ]
    file = tmp_path / "marks.json"
    file.write_text(
        json.dumps({"format": "hydragrad marks", "version": 1, "run": run.digest, "samples": 120, "marks": entries})
    )
    return file


def test_fixed_labels_are_trained_on(hydragrad, trained, marks, tmp_path):
    words = ("clean", trained, "--labels", marks, "--no-reference", "--quiet", "--json", tmp_path / "figures.json")
    code, out, err = hydragrad(*words)
    assert code == 0, err
    assert "5 of 120 samples" in out and "as marked" in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["changed"], figures["marked_fine"], figures["marks_right"]) == (5, 1, 1.0)
    assert 0 <= figures["test_accuracy_cleaned"] <= 1
    assert (trained / "report-by-hand.html").exists() and (trained / "suspects-by-hand.csv").exists()
    hydragrad(*words)
    assert len(list((trained / "clean").glob("by-hand-5-*"))) == 1, "the same marks go on with the same training"
    body = json.loads(marks.read_text())
    first = body["marks"][0]
    first["label"] = next(i for i in range(10) if i not in (first["label"], first["given_label"]))
    marks.write_text(json.dumps(body))
    assert hydragrad(*words)[0] == 0
    assert len(list((trained / "clean").glob("by-hand-5-*"))) == 2, "other labels of the same samples are another one"


def test_mistakes_are_named(hydragrad, trained, marks):
    code, _, err = hydragrad("clean", trained, "--labels", marks, "--relabel")
    assert code == 1 and "leave out --remove and --relabel" in err
    code, _, err = hydragrad("clean", trained, "--labels", "nowhere.json")
    assert code == 1 and "There is no file nowhere.json" in err
    marks.write_text(marks.read_text().replace('"run": "', '"run": "x'))
    code, _, err = hydragrad("clean", trained, "--labels", marks)
    assert code == 1 and "another run" in err and "Traceback" not in err


def test_bars_say_which_training_it_is(hydragrad, trained, monkeypatch):
    said = []
    shown = loop.bar
    monkeypatch.setattr(loop, "bar", lambda title, *rest, **more: said.append(title) or shown(title, *rest, **more))
    assert hydragrad("clean", trained, "--remove", "0.1")[0] == 0
    assert said == ["training without 12 samples", "training on true labels"]


def test_folds_are_trained_and_their_confidence_written(trained, hydragrad):
    assert hydragrad("clean", trained, "--folds", "2", "--remove", "0.1", "--no-reference")[0] == 0
    frame = pd.read_csv(trained / "suspects.csv")
    assert frame["confidence"].between(0, 1).all() and frame["influence"].notna().all()
    code, _, err = hydragrad("clean", trained, "--folds", "1")
    assert code and "folds must be 0, or 2 to 120" in err


def test_own_items_are_relabelled_where_their_label_stands(hydragrad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--from", "own_labels:setup", "--epochs", 4, "--batch-size", 10, "--out", "a run")
    assert hydragrad("train", *words)[0] == 0
    code, out, err = hydragrad("clean", "a run", "--relabel", "--json", "figures.json")
    assert code == 0, err
    listed = pd.read_csv("a run/suspects-relabelled.csv").set_index("sample").sort_index()
    data, true = own_labels.Own(own_labels.SAMPLES, 1, own_labels.WRONG), own_labels.TRUE.numpy()
    assert listed.given_label.tolist() == data.y.tolist()
    assert (listed.suggested_label == true)[: own_labels.WRONG].mean() > 0.8
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["changed"] == (listed.suggested_label != listed.given_label).sum() > 0
    assert figures["test_accuracy_cleaned"] > 0.8
    # The retrained run is that of the suggested labels, to the bit.
    (folder,) = (tmp_path / "a run" / "clean").glob("relabelled-*")
    expected = own_labels.Own(own_labels.SAMPLES, 1)
    expected.y = torch.tensor(listed.suggested_label.tolist())
    model = own_labels.setup()[0]
    assert len(hg.Recording(folder, model, own_labels.loss, expected).steps) == 60
    code, out, err = hydragrad("explain", "a run", "--test", 7)
    assert code == 0, err
    assert "label" in out and "predicted" in out
    assert hydragrad("verify", "a run", "--groups", 3, "--size", 0.1)[0] == 0


def test_values_are_ranked_and_removed_but_not_relabelled(hydragrad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_values.py").write_text(VALUES)
    monkeypatch.syspath_prepend(tmp_path)
    hydragrad("train", "--from", "own_values:setup", "--epochs", 4, "--batch-size", 10, "--out", "a run")
    code, out, err = hydragrad("clean", "a run")
    assert code == 0, err
    assert "estimated from the evidence in training" in " ".join(out.split())
    listed = pd.read_csv("a run/suspects.csv")
    assert listed["sample"].iloc[0] == 3 and "residual" in listed
    assert "given_target" not in (tmp_path / "a run" / "report.html").read_text()
    code, _, err = hydragrad("clean", "a run", "--relabel")
    assert code == 1 and "these targets are of the kind values. Use --remove" in " ".join(err.split())


VALUES = """
import torch
from torch.utils.data import TensorDataset


def squares(model, batch):
    return (model(batch[0])[:, 0] - batch[1]).square()


def setup():
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    y = x.sum(1)
    given = y[:40].clone()
    given[3] += 9
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, squares, TensorDataset(x[:40], given), optimizer, {"validation": TensorDataset(x[40:], y[40:])}
"""
