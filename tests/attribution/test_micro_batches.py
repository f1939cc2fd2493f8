"""Steps of several micro-batches, with coefficients and clipped gradients: central differences of real retrainings."""

import pytest
import torch

import hydragrad as hg
from attribution import oracle, written
from cases import SAMPLES, Case

CASES = [
    Case("mlp", "momentum"),
    Case("batch_norm", "two_groups"),
    Case("dropout", "adamw"),
    Case("transformer", "decay_groups"),
    Case("batch_norm", "adam_warm"),
    Case("mlp", "amsgrad"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = {}

    def get(case):
        if case.name not in made:
            made[case.name] = written.written(case, tmp_path_factory.mktemp("written") / case.name)
        return made[case.name]

    return get


def differences(case, directions, h=1e-5):
    query, rows = oracle.mean_loss(case, case.held_out), []
    for direction in directions:
        ends = [written.retrain(case, torch.ones(SAMPLES).double() + sign * h * direction) for sign in (1, -1)]
        rows.append((query(ends[0]).item() - query(ends[1]).item()) / (2 * h))
    return -torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_exact_sweep_is_the_derivative_of_retraining(case, runs):
    run = runs(case)
    plain = written.retrain(case, torch.ones(SAMPLES).double())
    for name, value in plain.named_parameters():
        torch.testing.assert_close(run.final.parameters[name], value.detach(), rtol=1e-11, atol=1e-12)
    generator = torch.Generator().manual_seed(1)
    directions = torch.cat([torch.eye(SAMPLES).double()[[3, 8]], torch.randn(1, SAMPLES, generator=generator).double()])
    expected = differences(case, directions)
    assert expected.abs().min() > 1e-7, "the perturbation changed nothing"
    scores = hg.attribute(run, hg.mean_loss(case.held_out), curvature="hessian", smoothing=0)
    assert oracle.relative(scores.values[0] @ directions.T, expected) < 1e-6


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("curvature", ["none", "hessian"])
def test_rows_give_what_the_sweep_gives(case, curvature, runs):
    run, query = runs(case), hg.mean_loss(case.held_out)
    expected = hg.attribute(run, query, curvature=curvature)
    rows = hg.hypergradients(run, curvature=curvature).contributions(query)
    assert expected.evidence.route == "sweep"
    assert oracle.relative(rows.values, expected.values) < 1e-8


def test_a_retraining_leaves_samples_out_of_every_micro_batch(runs):
    case = CASES[0]
    weights = torch.ones(SAMPLES).double()
    weights[[2, 5]] = 0
    query = oracle.mean_loss(case, case.held_out)
    expected = query(written.retrain(case, weights)).item() - query(written.retrain(case, torch.ones(SAMPLES))).item()
    actual = hg.counterfactual(runs(case), [[2, 5]], hg.mean_loss(case.held_out)).values.item()
    assert actual == pytest.approx(expected, rel=1e-8)


def test_replays_average_such_runs_too(runs):
    case = CASES[2]
    scores = hg.attribute(runs(case), hg.mean_loss(case.held_out), curvature="hessian", replays=2, drop=0.2)
    assert scores.values.isfinite().all() and scores.values.abs().max() > 0
