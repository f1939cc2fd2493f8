"""Suspects of a model trained elsewhere: losses and margins at its checkpoints, and influence functions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from cleaning.conftest import clouds, loss
from hydragrad.cleaning import area_under_roc, flip_labels, training_signals
from hydragrad.errors import Unsupported
from hydragrad.replay.checkpoint_spread import checkpoint_at, spread_steps
from trained_elsewhere.states import copied


@pytest.fixture(scope="module")
def noisy():
    """States of a plain loop on labels of which a tenth is flipped."""
    points, true = clouds(80, seed=0)
    labels = flip_labels(true, 0.1, classes=2, seed=0)
    torch.manual_seed(0)
    model, states = nn.Linear(2, 2), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        for rows in torch.arange(80).split(16):
            F.cross_entropy(model(points[rows]), labels.given[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
        states.append(copied(model.state_dict()))
    return hg.Checkpoints(states, nn.Linear(2, 2), loss, TensorDataset(points, labels.given)), labels


def test_wrong_labels_come_first(noisy):
    checkpoints, labels = noisy
    held_out = hg.mean_loss(TensorDataset(*clouds(40, seed=1)))
    suspects = hg.suspects(checkpoints, hg.influence(checkpoints, held_out), held_out=held_out)
    assert list(suspects) == [
        *("sample", "given_label", "suggested_label", "suspicion", "contribution", "loss", "margin", "influence")
    ]
    assert area_under_roc(suspects.assign(flipped=labels.flipped.numpy()[suspects["sample"]])) > 0.99
    first = suspects.head(int(labels.flipped.sum()))
    assert (first["suggested_label"].to_numpy() == labels.true[first["sample"].tolist()].numpy()).all()
    assert (suspects.sort_values("sample")["given_label"].to_numpy() == labels.given.numpy()).all()


def test_the_evidence_is_that_of_a_run_at_the_same_checkpoints(noisy_run):
    run, _, _ = noisy_run
    read = [checkpoint_at(run, step) for step in spread_steps(run, 10)]
    checkpoints = hg.Checkpoints([at.parameters | at.buffers for at in read], nn.Linear(2, 2), loss, run.train_set)
    ours, theirs = training_signals(checkpoints), training_signals(run)
    for name in ("given", "at_end", "over_training", "margin"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    held_out = hg.mean_loss(TensorDataset(*clouds(40, seed=1)))
    ours = hg.suspects(checkpoints, hg.influence(checkpoints, held_out), held_out=held_out)
    theirs = hg.suspects(run, hg.influence(run, held_out), held_out=held_out)
    assert ours["sample"].tolist() == theirs["sample"].tolist()


def test_without_signals_contributions_alone_rank(noisy):
    checkpoints, _ = noisy
    scores = hg.influence(checkpoints, hg.mean_loss(TensorDataset(*clouds(40, seed=1))))
    suspects = hg.suspects(checkpoints, scores, signals=None)
    assert suspects["sample"].tolist() == scores.most_harmful(80)


def test_folds_need_a_recorded_run(noisy):
    with pytest.raises(Unsupported, match=r"training_signals\(folds=...\) needs a recorded run"):
        training_signals(noisy[0], folds=2)
