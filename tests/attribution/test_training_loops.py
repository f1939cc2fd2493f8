"""Contributions of runs that clip, accumulate and weigh: central differences of the same loop, really retrained."""

import pytest
import torch

import hydragrad as hg
from attribution import oracle
from cases import SAMPLES, Case
from training_loops import LOOPS, record, retrain

CASES = [
    (Case("mlp", "momentum"), "clipped"),
    (Case("batch_norm", "adamw"), "clipped"),
    (Case("transformer", "decay_groups"), "clipped_in_parts"),
    (Case("dropout", "nesterov"), "clipped_in_parts"),
    (Case("batch_norm", "two_groups"), "accumulated"),
    (Case("dropout", "adam"), "accumulated"),
    (Case("batch_norm", "momentum"), "left_over"),
    (Case("transformer", "amsgrad"), "left_over"),
    (Case("transformer", "decay_groups"), "token_mean"),
    (Case("tied", "adamw"), "token_mean"),
    (Case("mlp", "all"), "token_mean"),
    (Case("convolution", "momentum"), "class_weights"),
    (Case("batch_norm", "adam"), "class_weights"),
]
IDS = [f"{case.name}-{loop}" for case, loop in CASES]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = {}

    def get(case, loop):
        if (case.name, loop) not in made:
            made[case.name, loop] = record(case, LOOPS[loop], tmp_path_factory.mktemp("loop") / "run")
        return made[case.name, loop]

    return get


def differences(case, loop, directions, h=1e-5):
    query, rows = oracle.mean_loss(case, case.held_out), []
    for direction in directions:
        ends = [retrain(case, LOOPS[loop], torch.ones(SAMPLES).double() + sign * h * direction) for sign in (1, -1)]
        rows.append((query(ends[0]).item() - query(ends[1]).item()) / (2 * h))
    return -torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(("case", "loop"), CASES, ids=IDS)
def test_the_exact_sweep_is_the_derivative_of_retraining(case, loop, runs):
    run = runs(case, loop)
    plain = retrain(case, LOOPS[loop], torch.ones(SAMPLES).double())
    for name, value in plain.named_parameters():
        torch.testing.assert_close(run.final.parameters[name], value.detach(), rtol=1e-11, atol=1e-12)
    generator = torch.Generator().manual_seed(1)
    directions = torch.cat([torch.eye(SAMPLES).double()[[3, 8]], torch.randn(1, SAMPLES, generator=generator).double()])
    expected = differences(case, loop, directions)
    assert expected.abs().min() > 1e-7, "the perturbation changed nothing"
    scores = hg.attribute(run, hg.mean_loss(case.held_out), curvature="hessian", smoothing=0)
    assert oracle.relative(scores.values[0] @ directions.T, expected) < 1e-5


@pytest.mark.parametrize(("case", "loop"), CASES, ids=IDS)
def test_a_retraining_leaves_samples_out(case, loop, runs):
    weights = torch.ones(SAMPLES).double()
    weights[[2, 5]] = 0
    query = oracle.mean_loss(case, case.held_out)
    ends = (retrain(case, LOOPS[loop], each) for each in (weights, torch.ones(SAMPLES).double()))
    without, plain = (query(end).item() for end in ends)
    actual = hg.counterfactual(runs(case, loop), [[2, 5]], hg.mean_loss(case.held_out)).values.item()
    assert actual == pytest.approx(without - plain, rel=1e-7)


def test_clipping_acts_at_some_steps_and_not_at_others(runs):
    acted = {record.clipped for record in runs(*CASES[0]).steps}
    assert acted == {True, False}


def test_an_incomplete_group_is_a_step_of_its_own_size(runs):
    sizes = [len(record.micro_batches) for record in runs(Case("dropout", "adam"), "accumulated").steps]
    assert sizes[:2] == [3, 2]
