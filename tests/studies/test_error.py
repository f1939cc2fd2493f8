"""Error along a run: rows of both estimators, measured once, and influence functions that solve their equation."""

import pytest
import torch

import hydragrad as hg
from hydragrad.attribution.influence import DampedGaussNewton
from hydragrad.replay.histories import trained_layout
from studies import error
from studies.error import INFLUENCE, NONE, influence_hypergradients, reproduce_error

SMALL = {"networks": ("logistic",), "train_size": 100, "epochs": 2, "samples": 4, "points": 2}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("error")
    return out, reproduce_error(out, **SMALL)


def test_both_estimators_at_the_same_steps(study):
    out, rows = study
    steps = {name: [row.step for row in rows if row.estimator == name] for name in (NONE, INFLUENCE)}
    assert steps[NONE] == steps[INFLUENCE] == [2, 4]
    for row in rows:
        assert row.error > 0 and row.exact > 0
        assert (row.measured_bound is None) == (row.estimator == INFLUENCE)
        assert row.measured_bound is None or row.error <= row.measured_bound * (1 + 1e-6)
    assert (out / "error-digits-logistic.png").stat().st_size > 0


def test_rows_that_are_there_are_not_measured_again(study, monkeypatch):
    out, rows = study
    monkeypatch.setattr(error, "approximation_error", lambda *_, **__: pytest.fail("measured twice"))
    assert reproduce_error(out, **SMALL) == rows


def test_influence_functions_solve_their_equation(study, tmp_path):
    splits = error.load("digits", train_size=100)
    run = hg.Recording(
        study[0] / "digits-logistic-100x2-0", error.NETWORKS["logistic"](1), error.cross_entropy, splits.train
    )
    layout = trained_layout(run)
    (found,) = influence_hypergradients(run, layout, run.final, [3], damping=0.1, iterations=200)
    model = run.trained_model().requires_grad_()
    (loss,) = run.loss(model, run.collate([3]))
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
    back = DampedGaussNewton(run, layout, run.final, 0.1) @ (-100 * found)
    assert float((back - gradient).norm() / gradient.norm()) < 1e-3
