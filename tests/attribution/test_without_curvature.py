"""curvature="none" is the paper's recurrence, carried eagerly: eqs. 35-36 without the Hessian."""

from functools import partial

import pytest
import torch

import hydragrad as hg
from attribution import oracle
from cases import ADAPTIVE_CASES, CASES, EVERY_MODEL, SAMPLES, Case
from hydragrad.errors import QueryError, Unsupported


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_route_is_the_eager_recurrence(case, recorded):
    run, held_out = recorded(case), case.held_out
    queries = [hg.mean_loss(held_out, "mean"), hg.sample_losses(held_out, [3])]
    eager = oracle.tangents(case, oracle.every_sample())
    # Where a gradient is stopped, reverse mode gives another vector than the derivative of the query.
    true = eager.contributions if case.model.curvature else partial(eager.differences, statistics=False)
    expected = torch.stack([true(oracle.mean_loss(case, held_out, chosen)) for chosen in (range(len(held_out)), [3])])
    assert expected.abs().min(1).values.max() > 0
    for route in ("jvp", "hooks", "samples", "auto") if case.model.hooks else ("jvp", "samples", "auto"):
        scores = hg.attribute(run, queries, route=route)
        assert oracle.relative(scores.values, expected) < (1e-10 if case.model.curvature else 1e-7), route
    # "auto" came last: it takes the cheap route wherever that is valid.
    assert scores.evidence.route == ("hooks" if case.model.hooks else "jvp")


@pytest.mark.parametrize("case", [c for c in EVERY_MODEL if not c.model.hooks], ids=lambda case: case.name)
def test_hooks_are_refused_with_the_reason(case, recorded):
    reason = {
        "batch_norm": "couples the samples",
        "batch_norm_images": "couples the samples",
        "frozen_statistics": "couples the samples",
        "two_calls": "couples the samples",
        "transformer": r"no rule for the parameters of encoder.self_attn \(MultiheadAttention\)",
        "frozen_encoder": "no rule for the parameters of",
        "in_place": "used in a way that the rules do not know",
        "direct": r"no rule for the parameters of the model \(Direct\)",
        "penalised": "used in a way that the rules do not know",
    }[case.model_name]
    with pytest.raises(Unsupported, match=f"route='hooks' is not valid here.*{reason}.*route='jvp'"):
        hg.attribute(recorded(case), hg.mean_loss(case.held_out), route="hooks")


def test_running_statistics_are_constants_and_the_scores_say_so(recorded):
    case = Case("batch_norm", "all")
    scores = hg.attribute(recorded(case), hg.mean_loss(case.held_out))
    assert any("Running statistics of BatchNorm were treated as constants" in n.text for n in scores.evidence.notes)
    other = hg.attribute(recorded(Case("mlp", "all")), hg.mean_loss(Case("mlp", "all").held_out))
    assert not any(note.kind == "statistics constant" for note in other.evidence.notes)
    assert not other.evidence.scale_is_measured


def test_the_derivative_without_curvature_is_not_the_exact_one(recorded):
    case = Case("mlp", "all")
    query = hg.mean_loss(case.held_out)
    none, exact = (hg.attribute(recorded(case), query, curvature=c).values for c in ("none", "hessian"))
    assert oracle.relative(none, exact) > 0.01
    assert none.shape == (1, SAMPLES) and none.dtype == torch.float64


@pytest.mark.parametrize("case", ADAPTIVE_CASES, ids=lambda case: case.name)
def test_an_optimizer_without_a_closed_form_is_swept_without_curvature(case, recorded):
    run, held_out = recorded(case), case.held_out
    queries = [hg.mean_loss(held_out, "mean"), hg.sample_losses(held_out, [3])]
    eager = oracle.tangents(case, oracle.every_sample())
    expected = torch.stack(
        [eager.contributions(oracle.mean_loss(case, held_out, chosen)) for chosen in (range(len(held_out)), [3])]
    )
    scores = hg.attribute(run, queries, smoothing=0)
    assert oracle.relative(scores.values, expected) < 1e-9
    assert scores.evidence.route == "sweep" and not scores.evidence.scale_is_measured


def test_smoothing_changes_scores_of_adam_by_default(recorded):
    case = Case("mlp", "adamw")
    run, query = recorded(case), hg.mean_loss(case.held_out)
    for curvature in ("none", "hessian", "ggn"):
        default, same, exact = (
            hg.attribute(run, query, curvature=curvature, smoothing=share).values for share in (None, 0.01, 0)
        )
        assert torch.equal(default, same)
        assert oracle.relative(default, exact) > 1e-4


def test_a_route_is_refused_where_there_is_no_closed_form(recorded):
    case = Case("mlp", "adamw")
    with pytest.raises(QueryError, match=r"route= chooses .* a run of AdamW has none"):
        hg.attribute(recorded(case), hg.mean_loss(case.held_out), route="jvp")
