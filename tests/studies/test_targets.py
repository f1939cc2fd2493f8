"""The study of targets: what is planted, that rows are measured once, and methods against the library."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from hydragrad.replay import Recording
from studies import targets
from studies.targets import NOISES, PROBLEMS, reproduce_targets, summary


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_targets_are_wrong_where_the_problem_says(problem, noise):
    planted, again = PROBLEMS[problem](noise, 0), PROBLEMS[problem](noise, 0)
    assert torch.equal(planted.train.tensors[1], again.train.tensors[1])
    assert 0.04 < planted.wrong.mean() <= 0.1
    losses = planted.loss(planted.model, planted.train.tensors)
    assert losses.shape == planted.wrong.shape


def test_only_the_wrong_values_are_changed(monkeypatch):
    planted = PROBLEMS["diabetes"]("agreeing", 0)
    monkeypatch.setattr(targets, "SHARE", 0.0)
    monkeypatch.setattr(PROBLEMS["diabetes"].__globals__["_wrong"], "__defaults__", (0.0,))
    clean = PROBLEMS["diabetes"]("agreeing", 0)
    changed = planted.train.tensors[1] - clean.train.tensors[1]
    assert np.array_equal((changed != 0).numpy(), planted.wrong)
    assert (changed[planted.wrong] > 0.9).all()


def test_rows_are_measured_once_and_are_those_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "EPOCHS", 2)
    rows = reproduce_targets(tmp_path, problems=["diabetes", "tokens"], seeds=[0])
    assert {row.method for row in rows if row.problem == "tokens"} >= {"hydragrad", "loss", "cleanlab", "random"}
    planted = PROBLEMS["diabetes"]("scattered", 0)
    run = Recording(tmp_path / "diabetes-scattered-0", planted.model, planted.loss, planted.train)
    losses = planted.loss(run.trained_model(), planted.train.tensors)
    (row,) = (row for row in rows if (row.problem, row.noise, row.method) == ("diabetes", "scattered", "loss"))
    assert row.auc == roc_auc_score(planted.wrong, losses) and row.wrong == planted.wrong.sum() == 26
    monkeypatch.setattr(targets, "_measured", lambda *_: pytest.fail("measured twice"))
    assert reproduce_targets(tmp_path, problems=["diabetes", "tokens"], seeds=[0]) == rows
    assert summary(rows).shape[0] == 4
