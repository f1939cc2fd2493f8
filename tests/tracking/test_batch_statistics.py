"""Rows with the batch's statistics as constants: asked for by name, and named wherever they go."""

import dataclasses
import json

import pytest
import torch

import hydragrad as hg
from attribution import oracle
from cases import Case
from hydragrad.errors import QueryError, RecordingMismatch
from tracking.test_tracker import queries, track

NORMALISED = [Case("batch_norm", "all"), Case("batch_norm_images", "two_groups"), Case("two_calls", "plateau")]


@pytest.mark.parametrize("case", NORMALISED, ids=lambda case: case.name)
def test_online_equals_recorded_and_differs_from_exact(case, recorded):
    run = recorded(case)
    online = track(case, batch_statistics="frozen").contributions(queries(case))
    replayed = hg.hypergradients(run, batch_statistics="frozen").contributions(queries(case))
    exact = hg.hypergradients(run).contributions(queries(case))
    assert oracle.relative(online.values, replayed.values) < 1e-10
    assert oracle.relative(online.values, exact.values) > 1e-3
    for scores in (online, replayed):
        assert any("batch_statistics='frozen'" in note.text for note in scores.evidence.notes)
    assert not any("frozen" in note.text for note in exact.evidence.notes)


def test_rows_are_the_closed_form_of_gradients_with_statistics_detached(recorded):
    from derivatives.per_sample.test_frozen_statistics import detached

    case = Case("batch_norm", "plain")
    run, expected = recorded(case), torch.zeros(len(case.train_set), 5 * 5 + 10 + 18, dtype=torch.float64)
    with run.replay() as replay:
        replay.trajectory.restore(run.initial)
        for record in run.steps:
            (batch,) = run.batches(record)
            model = case.build()
            model.load_state_dict({**replay.trajectory.parameters, **replay.trajectory.buffers})
            gradients = detached_of(detached, model, case, batch.data)
            # Plain SGD: kappa is minus the rate.
            expected[record.indices] -= 0.2 * gradients / len(record.indices)
            replay.advance(record, [batch])
    found = torch.from_numpy(hg.hypergradients(run, batch_statistics="frozen").rows)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def detached_of(detached, model, case, data):
    import derivatives.per_sample.test_frozen_statistics as reference

    before, reference.loss = reference.loss, case.loss
    try:
        return detached(model, data)
    finally:
        reference.loss = before


def test_without_batch_norm_nothing_is_given_up(recorded):
    case = Case("dropout", "all")
    frozen = hg.hypergradients(recorded(case), batch_statistics="frozen").contributions(queries(case))
    assert torch.equal(frozen.values, hg.hypergradients(recorded(case)).contributions(queries(case)).values)
    assert not any("frozen" in note.text for note in frozen.evidence.notes)


def test_named_in_the_store_and_checked_on_opening_and_resuming(tmp_path):
    case, folder = NORMALISED[0], tmp_path / "store"
    track(case, batch_statistics="frozen", store=folder, stop_at=7)
    with pytest.raises(RecordingMismatch, match="begun with other batch_statistics"):
        track(case, store=folder, resume=True)
    whole = track(case, batch_statistics="frozen", store=folder, resume=True)
    facts = json.loads((folder / "store.json").read_text())
    assert facts["batch_statistics"] == "frozen"
    with pytest.raises(RecordingMismatch, match="batch_statistics"):
        track(case, store=folder, resume=True)
    opened = hg.Store.open(folder, case.build(), case.loss)
    assert torch.equal(opened.contributions(queries(case)).values, whole.contributions(queries(case)).values)
    unknown = dataclasses.replace(opened.facts, batch_statistics="half")
    opened.facts = unknown
    opened.save(tmp_path / "unknown")
    with pytest.raises(RecordingMismatch, match="batch_statistics='half', unknown to this version"):
        hg.Store.open(tmp_path / "unknown", case.build(), case.loss)


def test_refused_with_curvature_and_by_other_names(recorded):
    case = NORMALISED[0]
    for build in (lambda **o: track(case, **o), lambda **o: hg.hypergradients(recorded(case), **o)):
        with pytest.raises(QueryError, match="it would be neither"):
            build(curvature="hessian", batch_statistics="frozen")
        with pytest.raises(QueryError, match="must be 'exact' or 'frozen', got 'constant'"):
            build(batch_statistics="constant")
