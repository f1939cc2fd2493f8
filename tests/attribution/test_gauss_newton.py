"""curvature="ggn" is the sweep with J' H_out J in place of the Hessian, J dense in the oracle."""

import pytest

import hydragrad as hg
from attribution import oracle
from cases import ADAPTIVE_CASES, EVERY_MODEL, Case

ONE_CALL = [case for case in EVERY_MODEL if case.model.curvature and case.model.output_loss is not None]
OTHER_OPTIONS = [Case("mlp", name) for name in ("maximize", "late", "switched", "warm", "sum", "replacement")]


@pytest.mark.parametrize("case", ONE_CALL + OTHER_OPTIONS + ADAPTIVE_CASES, ids=lambda case: case.name)
def test_ggn_is_the_dense_sweep(case, recorded):
    carried = oracle.tangents(case, oracle.every_sample(), curvature="ggn")
    query = oracle.mean_loss(case, case.held_out)
    scores = hg.attribute(recorded(case), hg.mean_loss(case.held_out), curvature="ggn", smoothing=0)
    if carried.r_dot:
        assert oracle.relative(scores.values[0], carried.differences(query)) < 1e-6
    else:
        assert oracle.relative(scores.values[0], carried.contributions(query)) < 1e-10


@pytest.mark.parametrize("name", ["linear-plain", "linear-all"])
def test_ggn_is_the_hessian_where_the_output_is_linear(name, recorded):
    case = Case(*name.split("-"))
    query = hg.mean_loss(case.held_out)
    ggn, hessian = (hg.attribute(recorded(case), query, curvature=c).values for c in ("ggn", "hessian"))
    assert oracle.relative(ggn, hessian) < 1e-12


def test_ggn_is_not_the_hessian_elsewhere(recorded):
    case = Case("mlp", "all")
    query = hg.mean_loss(case.held_out)
    ggn, hessian = (hg.attribute(recorded(case), query, curvature=c).values for c in ("ggn", "hessian"))
    assert oracle.relative(ggn, hessian) > 0.01


def test_damping_is_added_to_the_gauss_newton_matrix(recorded):
    case = Case("mlp", "momentum")
    carried = oracle.tangents(case, oracle.every_sample(), curvature="ggn", damping=0.3)
    expected = carried.contributions(oracle.mean_loss(case, case.held_out))
    query = hg.mean_loss(case.held_out)
    plain, damped = (hg.attribute(recorded(case), query, curvature="ggn", damping=d).values[0] for d in (0.0, 0.3))
    assert oracle.relative(plain, expected) > 0.01
    assert oracle.relative(damped, expected) < 1e-10
