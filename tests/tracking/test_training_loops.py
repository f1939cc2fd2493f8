"""Rows of loops that clip, accumulate and weigh: online, with a recorder, and after the fact they are the same."""

import pytest
import torch

import hydragrad as hg
from attribution import oracle
from cases import Case
from hydragrad.errors import QueryError, StepError
from training_loops import LOOPS, accumulated, clipped, record, track

CASES = [
    (Case("mlp", "momentum"), "clipped"),
    (Case("dropout", "adamw"), "clipped_in_parts"),
    (Case("batch_norm", "two_groups"), "accumulated"),
    (Case("batch_norm", "momentum"), "left_over"),
    (Case("transformer", "decay_groups"), "token_mean"),
    (Case("tied", "all"), "token_mean"),
    (Case("convolution", "momentum"), "class_weights"),
]
IDS = [f"{case.name}-{loop}" for case, loop in CASES]


@pytest.mark.parametrize("curvature", ["none", "hessian"])
@pytest.mark.parametrize("recorded", [False, True], ids=["alone", "with a recorder"])
@pytest.mark.parametrize(("case", "loop"), CASES, ids=IDS)
def test_the_tracker_gives_what_the_recorded_run_gives(tmp_path, case, loop, recorded, curvature):
    query = hg.mean_loss(case.held_out)
    tracker = track(case, LOOPS[loop], tmp_path / "recorded" if recorded else None, curvature=curvature)
    run = record(case, LOOPS[loop], tmp_path / "run")
    expected = hg.attribute(run, query, curvature=curvature).values
    assert expected.abs().max() > 1e-7
    assert oracle.relative(tracker.contributions(query).values, expected) < 1e-8
    rows = hg.hypergradients(run, curvature=curvature)
    assert oracle.relative(rows.contributions(query).values, expected) < 1e-8


def test_projected_rows_of_a_clipped_loop_are_refused_by_name(tmp_path):
    run = record(Case("mlp", "momentum"), clipped, tmp_path)
    with pytest.raises(QueryError, match=r"Clipping depends on whole gradients.*first acted at step"):
        hg.hypergradients(run, projection=20)
    with pytest.raises(QueryError, match=r"Clipping depends on whole gradients.*first acted at step"):
        track(Case("mlp", "momentum"), clipped, projection=4)


def test_rows_without_room_for_an_accumulated_step_say_how_much_they_need(tmp_path, monkeypatch):
    import hydragrad.tracking.online as online

    monkeypatch.setattr(online, "LEAST_ROOM", 1)
    with pytest.raises(StepError, match=r"accumulated 12 tracked samples.*samples_per_step=12"):
        track(Case("mlp", "momentum"), accumulated, store=tmp_path / "short")
    tracker = track(Case("mlp", "momentum"), accumulated, store=tmp_path / "store", samples_per_step=12)
    assert torch.isfinite(tracker.contributions(hg.mean_loss(Case("mlp", "momentum").held_out)).values).all()
