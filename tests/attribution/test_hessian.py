"""curvature="hessian" is the derivative of the run: central differences of real retrainings, in float64."""

import pytest
import torch

import hydragrad as hg
from attribution import oracle
from cases import ADAPTIVE_CASES, CASES, SAMPLES, Case


@pytest.mark.parametrize("case", [c for c in CASES + ADAPTIVE_CASES if c.model.curvature], ids=lambda case: case.name)
def test_hessian_is_the_derivative_of_retraining(case, recorded):
    run, held_out = recorded(case), case.held_out
    queries = [hg.mean_loss(held_out, "mean"), hg.sample_losses(held_out, [0, 4])]
    scalars = [oracle.mean_loss(case, held_out), *(oracle.mean_loss(case, held_out, [i]) for i in (0, 4))]
    generator = torch.Generator().manual_seed(5)
    directions = torch.eye(SAMPLES, dtype=torch.float64)[[0, 7]]
    directions = torch.cat([directions, torch.randn(1, SAMPLES, generator=generator, dtype=torch.float64)])

    expected = -oracle.central_differences(case, directions, scalars)
    scores = hg.attribute(run, queries, curvature="hessian", smoothing=0)

    assert_same_run(run, oracle.retrain(case, torch.ones(SAMPLES, dtype=torch.float64)))
    assert expected.abs().min() > 1e-7, "the perturbation changed nothing"
    for given, row in zip(scores.values @ directions.T, expected, strict=True):
        assert oracle.relative(given, row) < 1e-6
    values = [scalar(run.trained_model()).item() for scalar in scalars]
    assert scores.query_values.tolist() == pytest.approx(values, rel=1e-12)


@pytest.mark.parametrize("name", ["batch_norm", "dropout", "batch_norm_images"])
def test_a_query_in_training_mode(name, recorded):
    case = Case(name, "all")
    query = hg.mean_loss(case.held_out, training=True)
    directions = torch.eye(SAMPLES, dtype=torch.float64)[[2, 11]]
    scalar = oracle.mean_loss(case, case.held_out, training=True)
    expected = -oracle.central_differences(case, directions, [scalar])
    in_eval_mode = -oracle.central_differences(case, directions, [oracle.mean_loss(case, case.held_out)])
    scores = hg.attribute(recorded(case), query, curvature="hessian")
    assert oracle.relative(in_eval_mode, expected) > 0.01
    assert oracle.relative(scores.values @ directions.T, expected) < 1e-6


def test_running_statistics_carry_part_of_the_derivative(recorded):
    """Without the cotangent of the statistics the test above would notice: their part is not small."""
    case = Case("batch_norm", "all")
    moving = oracle.tangents(case, oracle.every_sample(), curvature="hessian")
    query = oracle.mean_loss(case, case.held_out)
    with_them, without = moving.differences(query), moving.contributions(query)
    scores = hg.attribute(recorded(case), hg.mean_loss(case.held_out), curvature="hessian")
    assert oracle.relative(without, with_them) > 0.01
    assert oracle.relative(scores.values[0], with_them) < 1e-6


@pytest.mark.parametrize("name", ["mlp", "tied", "two_inputs"])
def test_damping_is_added_to_the_hessian(name, recorded):
    case = Case(name, "all")
    exact, damped = (
        oracle.tangents(case, oracle.every_sample(), curvature="hessian", damping=damping) for damping in (0.0, 0.5)
    )
    query = oracle.mean_loss(case, case.held_out)
    scores = hg.attribute(recorded(case), hg.mean_loss(case.held_out), curvature="hessian", damping=0.5)
    assert oracle.relative(damped.contributions(query), exact.contributions(query)) > 0.01
    assert oracle.relative(scores.values[0], damped.contributions(query)) < 1e-10
    assert scores.evidence.damping == 0.5


def assert_same_run(run: hg.Recording, model: torch.nn.Module) -> None:
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), run.final.parameters[name], rtol=1e-12, atol=1e-13)
