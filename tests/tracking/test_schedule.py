"""A planned schedule: one accumulator a row, the same numbers, and an error where the loop does something else."""

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

import hydragrad as hg
from attribution import oracle
from cases import EPOCHS, STEPS, Case
from hydragrad.errors import QueryError, RecordingMismatch, StepError
from tracking.test_tracker import queries, track

PLANNED = [
    Case("mlp", name) for name in ("plain", "dampening", "nesterov", "maximize", "two_groups", "all", "warm", "sum")
] + [Case("mlp", "cosine"), Case("dropout", "step_schedule"), Case("partly_frozen", "all")]


def schedule_of(case, steps=STEPS):
    optimizer = case.options.optimizer(case.build())
    scheduler = case.options.scheduler(optimizer) if case.options.scheduler else None
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = hg.planned(
        optimizer, scheduler, steps=steps, every=1 if case.options.every == "step" else STEPS // EPOCHS
    )
    assert [group["lr"] for group in optimizer.param_groups] == rates
    return schedule


@pytest.mark.parametrize("case", PLANNED, ids=lambda case: case.name)
def test_planned_rows_equal_rows_with_optimizer_states(case):
    lazy, planned = track(case), track(case, schedule=schedule_of(case))
    assert oracle.relative(torch.from_numpy(planned.store.rows), torch.from_numpy(lazy.store.rows)) < 1e-10
    assert planned._rows.growing.table.accumulators == 1
    projected = track(case, schedule=schedule_of(case), projection=16).store.rows
    assert oracle.relative(torch.from_numpy(projected), torch.from_numpy(track(case, projection=16).store.rows)) < 1e-10


def test_an_interrupted_planned_store_is_refused_until_it_is_whole(tmp_path):
    case, folder = Case("mlp", "cosine"), tmp_path / "store"
    whole = track(case, schedule=schedule_of(case))
    for stopped in (
        track(case, schedule=schedule_of(case), stop_at=9),
        track(case, schedule=schedule_of(case), store=folder, stop_at=9),
    ):
        with pytest.raises(StepError, match=r"9 of the 16 planned steps"):
            stopped.contributions(queries(case))
    with pytest.raises(StepError, match=r"9 of the 16 planned steps"):
        hg.Store.open(folder, case.build(), case.loss)
    with pytest.raises(RecordingMismatch, match="begun with other schedule"):
        track(case, store=folder, resume=True)
    resumed = track(case, schedule=schedule_of(case), store=folder, resume=True)
    np.testing.assert_array_equal(resumed.store.rows, whole.store.rows)


def test_what_was_not_planned_is_named():
    case = Case("mlp", "momentum")
    with pytest.raises(StepError, match=r"Step 0 ran with .*lr=0\.1.*planned were .*lr=0\.2.*hg\.planned"):
        track(case, schedule=schedule_of(Case("mlp", "plain")))
    with pytest.raises(StepError, match="ends after 3 steps"):
        track(case, schedule=schedule_of(case, steps=3))
    with pytest.raises(StepError, match=r"0\.weight was frozen or unfrozen at step 9"):
        track(Case("mlp", "late"), schedule=schedule_of(Case("mlp", "late")))
    with pytest.raises(StepError, match="Step 6 had other parameter groups"):
        track(Case("mlp", "regrouped"), schedule=schedule_of(Case("mlp", "regrouped")))
    with pytest.raises(QueryError, match="each of 1 groups"):
        track(case, schedule=schedule_of(Case("mlp", "two_groups")))
    with pytest.raises(QueryError, match="leave it out with 'hessian'"):
        track(case, schedule=schedule_of(case), curvature="hessian")
    optimizer = case.options.optimizer(case.build())
    with pytest.raises(QueryError, match="track without schedule="):
        hg.planned(optimizer, ReduceLROnPlateau(optimizer), steps=3)
