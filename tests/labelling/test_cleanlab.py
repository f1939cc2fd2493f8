"""Suspects as an issue type of cleanlab's Datalab, and cleanlab's findings as a ranking."""

import numpy as np
import pandas as pd
import pytest

import hydragrad as hg
from hydragrad.cleaning import estimated_share
from hydragrad.errors import DataError
from labelling.conftest import CLASSES

pytest.importorskip("cleanlab", reason="needs the extra 'cleanlab'")

from hydragrad.labelling.cleanlab import SuspectIssueManager, in_order_of


@pytest.fixture
def probabilities(subject):
    x, _ = subject.run.train_set.tensors
    return subject.run.trained_model()(x).softmax(1).detach().numpy()


def found(manager):
    manager.find_issues()
    return manager


def test_another_suggested_label_is_an_issue_and_the_most_suspect_has_the_lowest_score(subject):
    manager = found(SuspectIssueManager(None, subject.suspects))
    issues, suspects = manager.issues, subject.suspects
    assert issues.index.tolist() == list(range(len(suspects)))
    assert issues["hydragrad_score"].sort_values().index.tolist() == suspects["sample"].tolist()
    assert issues["hydragrad_score"].agg(["min", "max"]).tolist() == [0, 1]
    other = suspects["suggested_label"] != suspects["given_label"]
    assert sorted(issues.index[issues["is_hydragrad_issue"]]) == sorted(suspects["sample"][other]) != []
    assert issues.loc[suspects["sample"], "hydragrad_suggestion"].tolist() == suspects["suggested_label"].tolist()
    assert manager.summary["score"].tolist() == [1 - estimated_share(suspects)]
    assert manager.info["ranking"] == suspects["sample"].tolist()


def test_names_are_suggested_where_there_are_names_and_nothing_without_suggestions(subject):
    named = found(SuspectIssueManager(None, subject.suspects, classes=CLASSES)).issues
    assert set(named["hydragrad_suggestion"]) <= set(CLASSES)
    plain = found(SuspectIssueManager(None, subject.suspects.drop(columns="suggested_label"))).issues
    assert (
        "hydragrad_suggestion" not in plain
        and plain["is_hydragrad_issue"].sum() == (subject.suspects["contribution"] < 0).sum()
    )


class Lab:
    """As much of a Datalab as an issue manager asks."""

    def __init__(self, labels, names):
        self.labels, self.class_names, self.has_labels = np.asarray(labels), names, names is not None

    def get_info(self, name):
        return {"num_examples": len(self.labels)}


def test_suspects_of_another_data_set_are_refused(subject):
    given = subject.given.tolist()
    SuspectIssueManager(Lab(given, [0, 1, 2]), subject.suspects)
    SuspectIssueManager(Lab(given, None), subject.suspects)
    SuspectIssueManager(Lab(given, list(CLASSES)), subject.suspects, classes=CLASSES)
    with pytest.raises(DataError, match="must be its 44 examples, numbered from 0"):
        SuspectIssueManager(Lab(given[1:], [0, 1, 2]), subject.suspects)
    with pytest.raises(DataError, match=r"carries label 'a .*'; the suspects say \d.* Pass their names: classes="):
        SuspectIssueManager(Lab(given, list(CLASSES)), subject.suspects)
    with pytest.raises(DataError, match="example 3 carries label"):
        SuspectIssueManager(Lab([*given[:3], (given[3] + 1) % 3, *given[4:]], [0, 1, 2]), subject.suspects)


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # what pandas says of cleanlab
def test_a_datalab_reports_the_issue_and_its_own_label_issues_are_read_back(subject, probabilities, capsys):
    pytest.importorskip("datasets", reason="a Datalab needs the extra 'cleanlab'")
    from cleanlab import Datalab

    data = pd.DataFrame({"label": [CLASSES[label] for label in subject.given]}).to_dict("list")
    lab = Datalab(data | {"number": list(range(len(subject.given)))}, label_name="label", verbosity=0)
    lab.find_issues(
        pred_probs=probabilities[:, np.argsort(CLASSES)],  # cleanlab sorts the names
        issue_types={"hydragrad": {"suspects": subject.suspects, "classes": CLASSES}, "label": {}},
    )
    ours = found(SuspectIssueManager(None, subject.suspects, classes=CLASSES)).issues
    assert lab.get_issues("hydragrad").equals(ours)
    summary = lab.get_issue_summary("hydragrad")
    assert summary["num_issues"].tolist() == [ours["is_hydragrad_issue"].sum()]
    lab.report(verbosity=2)
    out = capsys.readouterr().out
    assert "hydragrad issues" in out and "Error in" not in out, out
    theirs = lab.get_issues("label")
    assert not [name for name in theirs if "hydragrad" in name]
    with pytest.warns(UserWarning, match="does not name the run"):
        marks = hg.import_labels(subject.run, theirs, classes=CLASSES)
    flagged = theirs.index[theirs["is_label_issue"] & (theirs["given_label"] != theirs["predicted_label"])]
    assert sorted(marks.fixed) == sorted(flagged) != []
    assert all(CLASSES[label] == theirs.loc[sample, "predicted_label"] for sample, label in marks.fixed.items())
    ranked = in_order_of(subject.suspects, theirs, classes=CLASSES)
    assert ranked["sample"].tolist() == theirs["label_score"].sort_values(kind="stable").index.tolist()


def test_findings_of_cleanlab_rank_suspects(subject, probabilities, tmp_path):
    from cleanlab.filter import find_label_issues

    given = subject.given.numpy()
    indices = find_label_issues(given, probabilities, return_indices_ranked_by="self_confidence")
    mask = find_label_issues(given, probabilities)
    assert 0 < len(indices) < len(given)
    ranked = in_order_of(subject.suspects, indices)
    assert ranked["sample"].head(len(indices)).tolist() == indices.tolist()
    assert sorted(ranked["sample"]) == list(range(len(given))) and ranked["suspicion"].is_monotonic_decreasing
    masked = in_order_of(subject.suspects, mask)["sample"].head(len(indices)).tolist()
    assert masked == [sample for sample in subject.suspects["sample"] if mask[sample]]
    hg.export_suspects(subject.run, ranked, tmp_path / "table.csv", most=len(indices))
    assert pd.read_csv(tmp_path / "table.csv")["sample"].tolist() == indices.tolist()


def test_a_frame_of_qualities_ranks_suspects_and_suggests_its_predictions(subject, probabilities):
    quality = probabilities[range(len(probabilities)), subject.given]
    issues = pd.DataFrame({"label_quality": quality, "predicted_label": probabilities.argmax(1)})
    ranked = in_order_of(subject.suspects, issues)
    assert ranked["sample"].tolist() == np.argsort(quality, kind="stable").tolist() or len(set(quality)) < len(quality)
    assert ranked["suggested_label"].tolist() == probabilities.argmax(1)[ranked["sample"]].tolist()
    assert (
        ranked["contribution"].tolist()
        == subject.suspects.set_index("sample")["contribution"][ranked["sample"]].tolist()
    )


@pytest.mark.parametrize(
    ("findings", "message"),
    [
        (
            pd.DataFrame({"label_score": [0.5]}),
            "Issues need the columns label_score or label_quality and predicted_label",
        ),
        (
            pd.DataFrame({"label_score": [0.5], "predicted_label": [0]}),
            "a row for each of the 45 suspects; got .* of 1 ",
        ),
        (pd.DataFrame({"label_score": [0.5] * 45, "predicted_label": ["x"] * 45}), "by number, or by the names"),
        (np.array([True]), "a mask of all samples or ranked indices; got bool of shape"),
        (np.array([45]), "ranked indices; got int64"),
        (np.array([1, 1]), "ranked indices; got int64"),
        (np.array([0.5]), "ranked indices; got float64"),
    ],
)
def test_findings_that_do_not_fit_are_refused(subject, findings, message):
    with pytest.raises(DataError, match=message):
        in_order_of(subject.suspects, findings)
