"""Labels of several annotators: a bad one is named, wrong labels come first, and cleanlab's numbers are passed on."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from cleanlab.multiannotator import get_label_quality_multiannotator
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.cleaning import training_signals
from hydragrad.errors import FrameworkMissing, LossError, QueryError

SIZE, RIGHT = 240, (0.95, 0.9, 0.85, 0.4)


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A run on the first label of each sample, true labels, and those of four annotators."""
    random, generator = np.random.RandomState(0), torch.Generator().manual_seed(0)
    true = random.randint(3, size=SIZE)
    x = torch.randn(SIZE, 3, generator=generator) + 3 * F.one_hot(torch.tensor(true), 3)
    given = np.full((SIZE, 4), np.nan)
    for annotator, right in enumerate(RIGHT):
        wrong = (true + random.randint(1, 3, size=SIZE)) % 3
        label = np.where(random.rand(SIZE) < right, true, wrong)
        has = random.rand(SIZE) < 0.6
        given[has, annotator] = label[has]
    given[5] = np.nan  # nobody labelled this one
    first = np.array([row[~np.isnan(row)][0] if (~np.isnan(row)).any() else 0 for row in given], dtype=np.int64)
    torch.manual_seed(0)
    model = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    out = tmp_path_factory.mktemp("annotators") / "run"
    run = hg.train(model, loss, TensorDataset(x, torch.tensor(first)), optimizer, epochs=5, batch_size=24, out=out)
    return run, true, given


def test_the_worst_annotator_and_wrong_labels_come_first(labelled):
    run, true, given = labelled
    judged = hg.annotations(run, pd.DataFrame(given, columns=["ann", "ben", "cy", "dot"]))
    assert judged.annotators["annotator"].iloc[0] == "dot"
    assert judged.annotators["quality"].is_monotonic_increasing
    assert judged.annotators.set_index("annotator")["labels"]["ann"] == (~np.isnan(given[:, 0])).sum()
    wrong = judged.labels["given_label"].to_numpy() != true[judged.labels["sample"]]
    assert len(judged.labels) == (~np.isnan(given)).sum()
    assert roc_auc_score(wrong, -judged.labels["quality"]) > 0.95
    assert 5 not in set(judged.samples["sample"]) and len(judged.samples) == (~np.isnan(given).all(1)).sum()
    consensus = judged.samples["consensus_label"].to_numpy() == true[judged.samples["sample"]]
    assert consensus.mean() > 0.95


def test_its_numbers_are_those_of_cleanlab_with_what_training_shows(labelled):
    run, _, given = labelled
    judged = hg.annotations(run, np.nan_to_num(given, nan=-1))
    some = np.flatnonzero(~np.isnan(given).all(1))
    expected = get_label_quality_multiannotator(
        given[some], training_signals(run).over_training.numpy()[some], verbose=False
    )
    qualities = expected["detailed_label_quality"].to_numpy()
    row = judged.labels.iloc[17]
    assert row["quality"] == qualities[some.tolist().index(row["sample"]), int(row["annotator"])]
    assert row["given_label"] == given[int(row["sample"]), int(row["annotator"])]
    assert judged.samples["quality"].tolist() == expected["label_quality"]["consensus_quality_score"].tolist()


def test_models_that_never_saw_the_sample_are_used_where_there_are_some(labelled):
    run, _, given = labelled
    signals = training_signals(run, points=1, folds=2)
    apart, together = hg.annotations(run, given, signals=signals), hg.annotations(run, given)
    assert not np.allclose(apart.labels["quality"], together.labels["quality"])


def test_labels_that_are_none_are_refused(labelled):
    run, _, given = labelled
    with pytest.raises(QueryError, match="a row for each of the 240 samples, got 3"):
        hg.annotations(run, given[:3])
    with pytest.raises(QueryError, match=r"must be a table \(samples, annotators\), got the shape \(240,\)"):
        hg.annotations(run, given[:, 0])
    with pytest.raises(QueryError, match="classes 0 to 2, NaN where there is none; got 7"):
        hg.annotations(run, np.where(given == 2, 7, given))
    with pytest.raises(QueryError, match="must be numbers of classes"):
        hg.annotations(run, np.full((SIZE, 2), "cat"))
    alone = np.full_like(given, np.nan)
    alone[:, 0] = 1
    with pytest.raises(QueryError, match="Several annotators must have labelled some samples"):
        hg.annotations(run, alone)


def test_without_cleanlab_it_says_what_to_install(labelled, monkeypatch):
    run, _, given = labelled
    monkeypatch.delitem(sys.modules, "cleanlab.multiannotator")
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with pytest.raises(FrameworkMissing, match=r"pip install 'hydragrad\[annotators\]'"):
        hg.annotations(run, given)


def test_a_model_that_is_no_classifier_is_refused(tmp_path):
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = hg.train(
        model,
        lambda m, b: (m(b[0])[:, 0] - b[1]).square(),
        TensorDataset(x, x.sum(1)),
        optimizer,
        epochs=1,
        batch_size=10,
        out=tmp_path / "run",
    )
    with pytest.raises(LossError, match="need a classifier"):
        hg.annotations(run, np.zeros((20, 2)))
