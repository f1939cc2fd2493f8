"""`hydragrad clean --labels`: labels that a person fixed in the report are trained on."""

import json

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import own_labels
from cli.test_app import hydragrad as hydragrad
from cli.test_app import trained as trained
from hydragrad.cleaning import load_labels
from hydragrad.experiments.from_settings import open_run


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
    assert "4.2 % of the samples, as marked" in out and "labels fixed by hand" in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["changed"], figures["marked_fine"], figures["marks_right"]) == (5, 1, 1.0)
    assert 0 <= figures["test_accuracy_cleaned"] <= 1
    assert (trained / "report-by-hand.html").exists() and (trained / "suspects-by-hand.csv").exists()
    table = pd.read_csv(trained / "cleaned-by-hand.csv").set_index("sample")
    fixed = [entry for entry in json.loads(marks.read_text())["marks"] if entry["mark"] == "fixed"]
    if figures["recommended"] == "labels fixed by hand":
        assert [table.label[entry["sample"]] for entry in fixed] == [entry["label"] for entry in fixed]
    retrained = sorted((trained / "retrained").iterdir())
    hydragrad(*words)
    assert sorted((trained / "retrained").iterdir()) == retrained, "the same marks are not trained again"
    body = json.loads(marks.read_text())
    first = body["marks"][0]
    first["label"] = next(i for i in range(10) if i not in (first["label"], first["given_label"]))
    marks.write_text(json.dumps(body))
    assert hydragrad(*words)[0] == 0
    assert len(list((trained / "retrained").iterdir())) == len(retrained) + 1, "other labels are another training"


def test_mistakes_are_named(hydragrad, trained, marks):
    code, _, err = hydragrad("clean", trained, "--labels", marks, "--relabel")
    assert code == 1 and "leave out --remove, --relabel and --treatment" in err
    code, _, err = hydragrad("clean", trained, "--labels", "nowhere.json")
    assert code == 1 and "There is no file nowhere.json" in err
    marks.write_text(marks.read_text().replace('"run": "', '"run": "x'))
    code, _, err = hydragrad("clean", trained, "--labels", marks)
    assert code == 1 and "another run" in err and "Traceback" not in err


def test_treatments_are_chosen_by_data_that_ranked_nothing(hydragrad, trained, tmp_path):
    words = ("--treatment", "down-weight", "--treatment", "remove", "--no-reference", "--json", tmp_path / "f.json")
    code, out, err = hydragrad("clean", trained, *words)
    assert code == 0, err
    assert "on held-out data that ranked nothing" in out and "suspects down-weighted" in out
    names = [row["treatment"] for row in json.loads((tmp_path / "f.json").read_text())["treatments"]]
    assert names[:2] == ["labels as given", "labels as given, again"] and "suspects down-weighted" in names[-1]
    assert (trained / "scores" / "validation-half-none.safetensors").exists()
    code, _, err = hydragrad("clean", trained, "--treatment", "reweigh")
    assert code == 1 and "--treatment takes remove, relabel, down-weight; got 'reweigh'" in err
    code, _, err = hydragrad("clean", trained, "--query", "test")
    assert code == 1 and "Use --query test-half" in err


def test_reweight_writes_weights_and_what_they_do(hydragrad, trained, tmp_path):
    code, out, err = hydragrad("reweight", trained, "--rounds", 1, "--json", tmp_path / "figures.json", "--quiet")
    assert code == 0, err
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert "on the half of the data that decided" in out and figures["sentence"] in " ".join(out.split())
    weights = pd.read_csv(trained / "weights.csv")
    assert list(weights.columns) == ["sample", "weight"] and weights.weight.mean() == pytest.approx(1)
    assert "equal weights" in figures["test"] and load_file(trained / "reweighted.safetensors")
    assert figures["sentence"].split(",")[0] in (trained / "report-reweighted.html").read_text()
    code, out, _ = hydragrad("reweight", trained, "--dry-run")
    assert code == 0 and "reweighting will take" in out
    code, _, err = hydragrad("reweight", trained, "--query", "elsewhere")
    assert code == 1 and "there are" in err


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
    assert "suspects relabelled" in figures["recommended"] and figures["test_accuracy_cleaned"] > 0.8
    # The retrained run is that of the labels and weights that are written, to the bit.
    table = pd.read_csv("a run/cleaned-relabelled.csv").set_index("sample").sort_index()
    changed = own_labels.Own(own_labels.SAMPLES, 1)
    changed.y = torch.tensor(table.label.tolist())
    weights = torch.tensor(table.weight.tolist()).mul(len(table) / table.weight.sum())
    model, state = own_labels.setup()[0], load_file("a run/cleaned-relabelled.safetensors")
    assert table.weight.isin([0, 1]).all() and (table.label != listed.given_label).sum() > 0
    assert weights.mean() == pytest.approx(1) and state.keys() == model.state_dict().keys()
    model.load_state_dict(state)
    right = (model(changed.x).argmax(1) == own_labels.TRUE).float().mean()
    assert right > 0.8
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
    assert "given_target" in (tmp_path / "a run" / "report.html").read_text()
    code, _, err = hydragrad("clean", "a run", "--relabel")
    assert code == 1 and "these targets are of the kind values. Use --treatment remove" in " ".join(err.split())


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
