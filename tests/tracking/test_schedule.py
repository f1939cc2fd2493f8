"""Options told ahead: one accumulator a row, the same numbers, and a word wherever the loop does something else."""

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

import hydragrad as hg
from attribution import oracle
from cases import EPOCHS, STEPS, Case
from hydragrad.errors import QueryError, RecordingMismatch, StepError
from tracking.test_tracker import queries, track

TOLD = [
    Case("mlp", name) for name in ("plain", "dampening", "nesterov", "maximize", "two_groups", "all", "warm", "sum")
] + [Case("mlp", "cosine"), Case("dropout", "step_schedule"), Case("partly_frozen", "all")]


def told(case, steps=STEPS):
    optimizer = case.options.optimizer(case.build())
    scheduler = case.options.scheduler(optimizer) if case.options.scheduler else None
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = hg.planned(
        optimizer, scheduler, steps=steps, every=1 if case.options.every == "step" else STEPS // EPOCHS
    )
    assert [group["lr"] for group in optimizer.param_groups] == rates
    return schedule


@pytest.mark.parametrize("case", TOLD, ids=lambda case: case.name)
def test_the_same_rows_without_velocities(case):
    lazy, found = track(case), track(case, schedule=told(case))
    assert oracle.relative(torch.from_numpy(found.store.rows), torch.from_numpy(lazy.store.rows)) < 1e-10
    assert found._rows.growing.table.accumulators == 1
    projected = track(case, schedule=told(case), projection=16).store.rows
    assert oracle.relative(torch.from_numpy(projected), torch.from_numpy(track(case, projection=16).store.rows)) < 1e-10


def test_interrupted_it_is_refused_until_it_is_whole(tmp_path):
    case, folder = Case("mlp", "cosine"), tmp_path / "store"
    whole = track(case, schedule=told(case))
    for stopped in (
        track(case, schedule=told(case), stop_at=9),
        track(case, schedule=told(case), store=folder, stop_at=9),
    ):
        with pytest.raises(StepError, match=r"9 of the 16 planned steps"):
            stopped.contributions(queries(case))
    with pytest.raises(StepError, match=r"9 of the 16 planned steps"):
        hg.Store.open(folder, case.build(), case.loss)
    with pytest.raises(RecordingMismatch, match="begun with other schedule"):
        track(case, store=folder, resume=True)
    resumed = track(case, schedule=told(case), store=folder, resume=True)
    np.testing.assert_array_equal(resumed.store.rows, whole.store.rows)


def test_what_was_not_told_is_named():
    case = Case("mlp", "momentum")
    with pytest.raises(StepError, match=r"Step 0 ran with .*lr=0\.1.*planned were .*lr=0\.2.*hg\.planned"):
        track(case, schedule=told(Case("mlp", "plain")))
    with pytest.raises(StepError, match="ends after 3 steps"):
        track(case, schedule=told(case, steps=3))
    with pytest.raises(StepError, match=r"0\.weight was frozen or unfrozen at step 9"):
        track(Case("mlp", "late"), schedule=told(Case("mlp", "late")))
    with pytest.raises(StepError, match="Step 6 had other parameter groups"):
        track(Case("mlp", "regrouped"), schedule=told(Case("mlp", "regrouped")))
    with pytest.raises(QueryError, match="each of 1 groups"):
        track(case, schedule=told(Case("mlp", "two_groups")))
    with pytest.raises(QueryError, match="leave it out with 'hessian'"):
        track(case, schedule=told(case), curvature="hessian")
    optimizer = case.options.optimizer(case.build())
    with pytest.raises(QueryError, match="track without schedule="):
        hg.planned(optimizer, ReduceLROnPlateau(optimizer), steps=3)
