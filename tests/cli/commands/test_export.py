"""`hydragrad export`, and `hydragrad clean --labels` with what was decided in each tool."""

import json

import pandas as pd
import pytest

from cli.test_app import hydragrad as hydragrad
from cli.test_app import trained as trained
from hydragrad.cleaning import load_labels
from hydragrad.experiments.from_settings import open_run
from hydragrad.replay.changed_run import Change
from hydragrad.replay.retraining import retrain


def in_a_table(place, labels):
    frame = pd.read_csv(place, dtype=str, keep_default_na=False)
    frame["label"] = [str(labels.get(int(sample), "")) for sample in frame["sample"]]
    frame.to_csv(place, index=False)
    return place


def in_label_studio(place, labels):
    tasks = json.loads((place / "tasks.json").read_text())
    for task in tasks:
        label = labels.get(task["data"]["sample"])
        result = [{"from_name": "label", "to_name": "shown", "type": "choices", "value": {"choices": [str(label)]}}]
        task["annotations"] = [] if label is None else [{"result": result, "was_cancelled": False}]
    (place / "export.json").write_text(json.dumps(tasks))
    return place / "export.json"


def in_fiftyone(place, labels):
    body = json.loads((place / "samples.json").read_text())
    for sample in body["samples"]:
        sample["ground_truth"]["label"] = str(labels.get(sample["sample"], sample["given_label"]))
    (place / "samples.json").write_text(json.dumps(body))
    return place


@pytest.mark.parametrize(
    ("to", "name", "mark"),
    [
        ("csv", "to-label.csv", in_a_table),
        ("label-studio", "label-studio", in_label_studio),
        ("fiftyone", "fiftyone", in_fiftyone),
    ],
)
def test_labels_fixed_in_a_tool_are_trained_on(hydragrad, trained, tmp_path, to, name, mark):
    code, out, err = hydragrad("export", trained, "--to", to, "--most", 60, "--json", tmp_path / "f.json", "--quiet")
    assert code == 0, err
    assert "the first 60 of 120 samples" in out and f"hydragrad clean {trained} --labels" in out
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures == {"written": str(trained / name), "suspects": 60, "samples": 120}
    labels = load_labels(trained)
    exported = pd.read_csv(trained / name) if to == "csv" else suspects_of(trained)
    wrong = [sample for sample in exported["sample"].head(60) if labels.flipped[sample]][:4]
    assert len(wrong) == 4
    right = {sample: int(labels.true[sample]) for sample in wrong}
    file = mark(trained / name, right)
    words = ("clean", trained, "--labels", file, "--no-reference", "--quiet", "--json", tmp_path / "figures.json")
    code, out, err = hydragrad(*words)
    assert code == 0, err
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["changed"], figures["marks_right"]) == (4, 1.0)
    # What was trained is the run with these labels, and no others.
    _, recording = open_run(trained, data_dir=None)
    ((_, state),) = retrain(recording, [Change(labels=right)], keep=False)
    (by_hand,) = (row for row in figures["treatments"] if row["treatment"] == "labels fixed by hand")
    x, y = open_run(trained, data_dir=None)[0].halves("validation")[1][:]
    model = recording.trained_model()
    model.load_state_dict(state)
    assert by_hand["accuracy"] == pytest.approx((model(x).argmax(1) == y).double().mean().item())
    assert by_hand["changed"] == 4


@pytest.mark.filterwarnings("default:.*does not name the run")
def test_labels_that_cleanlab_predicts_are_trained_on(hydragrad, trained, tmp_path):
    labels = load_labels(trained)
    issues = pd.DataFrame({"is_label_issue": labels.flipped.numpy(), "given_label": labels.given.numpy()})
    issues.assign(predicted_label=labels.true.numpy()).to_csv(
        tmp_path / "issues.csv"
    )  # as Datalab.get_issues("label") is
    words = ("clean", trained, "--labels", tmp_path / "issues.csv", "--quiet", "--json", tmp_path / "figures.json")
    code, _, err = hydragrad(*words)
    assert code == 0, err
    assert "does not name the run that it is about; the labels that it says its samples carried are those of" in err
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["changed"], figures["marks_right"]) == (int(labels.flipped.sum()), 1.0)
    (by_hand,) = (row for row in figures["treatments"] if row["treatment"] == "labels fixed by hand")
    if figures["recommended"] == by_hand["treatment"]:
        assert figures["test_accuracy_cleaned"] == figures["test_accuracy_clean"], "they are the true labels"
    else:
        assert by_hand["gain"] <= max(2 * by_hand["gain_error"], abs(figures["treatments"][1]["gain"]))


def suspects_of(trained):
    """The same ranking, from the tasks."""
    place = next(
        place
        for place in (trained / "label-studio" / "tasks.json", trained / "fiftyone" / "samples.json")
        if place.exists()
    )
    body = json.loads(place.read_text())
    return pd.DataFrame([task["data"] for task in body] if isinstance(body, list) else body["samples"])


def test_decisions_are_not_overwritten(hydragrad, trained, tmp_path):
    (tmp_path / "labels.csv").write_text("decisions")
    code, _, err = hydragrad("export", trained, "--out", tmp_path / "labels.csv")
    assert code == 1 and "may hold decisions. Name another place" in err
    assert (tmp_path / "labels.csv").read_text() == "decisions"


def test_a_dry_run_only_forecasts(hydragrad, trained, tmp_path):
    code, out, _ = hydragrad("export", trained, "--folds", 3, "--out", tmp_path / "labels.csv", "--dry-run")
    assert code == 0 and "forecast: ranking will take about" in out and not list(tmp_path.iterdir())


def test_folds_and_other_files_are_taken(hydragrad, trained, tmp_path):
    code, _, err = hydragrad("export", trained, "--folds", 2, "--out", tmp_path / "labels.csv", "--quiet")
    assert code == 0, err
    assert pd.read_csv(tmp_path / "labels.csv")["confidence"].between(0, 1).all()
