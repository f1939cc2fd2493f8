"""Rows at checkpoints answer queries as TracIn and influence functions do, from disk, after a kill, and projected."""

import json
import shutil

import numpy as np
import pytest
import torch

import hydragrad as hg
from attribution.dense import data as run_data
from attribution.dense import network as run_network
from attribution.dense import trained
from hydragrad.checkpoint_rows import making
from hydragrad.errors import (
    DiskFull,
    NotEnoughMemory,
    QueryError,
    RecordingMismatch,
    RunDamaged,
    RunExists,
    RunNotFound,
    Unsupported,
)
from trained_elsewhere.states import data, loss, network, trained_states

RATES = [0.3, 0.2, 0.1]


def opened(count=3):
    return hg.Checkpoints(trained_states()[-count:], network(), loss, data(24, 0))


def queries():
    return [hg.mean_loss(data(12, 1)), hg.sample_losses(data(12, 1), range(9))]


def read(folder):
    return hg.InfluenceStore.open(folder, network(), loss)


def test_rows_of_tracin_answer_as_tracin_does():
    expected = hg.tracin(opened(), queries(), rates=RATES)
    scores = hg.influence_rows(opened(), method="tracin", rates=RATES).contributions(queries())
    torch.testing.assert_close(scores.values, expected.values)
    torch.testing.assert_close(scores.query_values, expected.query_values)
    assert scores.query_names == expected.query_names and scores.values.std() > 0
    assert scores.evidence.route == "tracin" and scores.evidence.states == expected.evidence.states
    assert "summed over 3 checkpoints" in scores.evidence.notes[0].text


@pytest.mark.parametrize("method", ["nystrom", "ekfac"])
def test_rows_of_an_inverse_answer_as_influence_without_conjugate_gradients_does(method):
    expected = hg.influence(opened(), queries(), damping=0.05, iterations=0, preconditioner=method)
    scores = hg.influence_rows(opened(), method=method, damping=0.05).contributions(queries())
    torch.testing.assert_close(scores.values, expected.values, rtol=1e-8, atol=1e-12)
    exact = hg.influence(opened(), queries(), damping=0.05)
    assert torch.corrcoef(torch.stack([scores.values.flatten(), exact.values.flatten()]))[0, 1] > 0.9
    assert [one.preconditioner for one in scores.evidence.solved] == [method] * 3
    assert f"an approximate inverse ({method}), which leaves" in scores.evidence.notes[0].text
    assert scores.evidence.states == exact.evidence.states


def test_rows_of_some_samples_of_a_recorded_run(tmp_path):
    run = trained(tmp_path / "run", run_network())
    query = hg.mean_loss(run_data(12, 1))
    whole = hg.influence_rows(run, damping=0.1).contributions(query)
    some = hg.influence_rows(run, damping=0.1, samples=[7, 2]).contributions(query)
    torch.testing.assert_close(some.values, whole.values[:, [7, 2]])
    assert some.sample_ids.tolist() == [7, 2] and some.evidence.states == ()
    by_rates = hg.influence_rows(run, method="tracin").contributions(query)
    torch.testing.assert_close(by_rates.values, hg.tracin(run, query).values)


def test_from_disk_they_answer_the_same_and_in_every_form(tmp_path):
    memory = hg.influence_rows(opened(), damping=0.05).contributions(queries())
    hg.influence_rows(opened(), damping=0.05, store=tmp_path / "rows")
    store = read(tmp_path / "rows")
    scores = store.contributions(queries(), memory=20_000)
    torch.testing.assert_close(scores.values, memory.values, rtol=1e-10, atol=1e-14)
    assert scores.evidence == memory.evidence
    matrix = store.contributions(queries(), out=tmp_path / "matrix.npy")
    np.testing.assert_allclose(matrix, memory.values.numpy(), rtol=1e-10, atol=1e-14)
    top = store.contributions(queries(), top=3)
    assert top.harmful_ids[4].tolist() == memory.most_harmful(3, 4)
    with pytest.raises(QueryError, match="top must be 1 to 24"):
        store.contributions(queries(), top=25)


def test_the_global_generator_is_left_alone():
    store = hg.influence_rows(opened(), method="tracin", rates=0.1)
    before = torch.get_rng_state()
    store.contributions(queries())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("method", ["tracin", "nystrom"])
def test_projected_rows_estimate_within_their_standard_errors(method):
    options = {"rates": 0.1} if method == "tracin" else {"damping": 0.05}
    whole = hg.influence_rows(opened(), method=method, **options).contributions(queries())
    store = hg.influence_rows(opened(), method=method, projection=30, **options)
    assert store.stores[0].rows.shape[1] < whole.values.shape[1] + 10
    scores = store.contributions(queries())
    errors = (scores.values - whole.values) / scores.standard_errors
    assert 0.2 < float(errors.square().mean().sqrt()) < 1.5
    assert [note.kind for note in scores.evidence.notes] == ["influence", "projection"]
    assert store.plan.projection == {"dims": 30, "seed": 0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shorter_numbers_are_rounded(dtype):
    expected = hg.influence_rows(opened(), method="tracin", rates=0.1).contributions(queries())
    scores = hg.influence_rows(opened(), method="tracin", rates=0.1, dtype=dtype).contributions(queries())
    size = expected.values.norm()
    assert 0 < (scores.values - expected.values).norm() < (1e-5 if dtype == torch.float32 else 0.02) * size


def test_after_an_interruption_finished_checkpoints_are_not_made_again(tmp_path, monkeypatch):
    expected = hg.influence_rows(opened(), damping=0.05).contributions(queries())
    seen, folder = [], tmp_path / "rows"
    original = making.GradientsAt

    def counted(run, layout, at, projector=None):
        seen.append(at.step)
        if seen == [0, 1]:
            raise KeyboardInterrupt
        return original(run, layout, at, projector)

    monkeypatch.setattr(making, "GradientsAt", counted)
    with pytest.raises(KeyboardInterrupt):
        hg.influence_rows(opened(), damping=0.05, store=folder)
    with pytest.raises(RunNotFound, match=r"rows that are unfinished; call hg.influence_rows with the same options"):
        read(folder)
    with pytest.raises(RecordingMismatch, match="differ in: damping"):
        hg.influence_rows(opened(), damping=0.1, store=folder)
    scores = hg.influence_rows(opened(), damping=0.05, store=folder).contributions(queries())
    assert seen == [0, 1, 1, 2]
    torch.testing.assert_close(scores.values, expected.values)
    assert scores.evidence == expected.evidence
    with pytest.raises(RunExists, match="holds finished rows"):
        hg.influence_rows(opened(), damping=0.05, store=folder)


@pytest.mark.parametrize("name", ["rows.json", "checkpoint-001/rows.npy", "checkpoint-001/final.safetensors"])
def test_a_flipped_byte_is_noticed(tmp_path, name):
    hg.influence_rows(opened(), method="tracin", rates=0.1, store=tmp_path / "rows")
    file = tmp_path / "rows" / name
    raw = bytearray(file.read_bytes())
    for at in (len(raw) // 2, len(raw) - 9):
        changed = raw.copy()
        changed[at] ^= 4
        file.write_bytes(changed)
        with pytest.raises(RunDamaged):
            read(tmp_path / "rows").contributions(queries())


def test_what_does_not_belong_together_is_refused(tmp_path):
    hg.influence_rows(opened(), method="tracin", rates=0.1, store=tmp_path / "rows")
    hg.influence_rows(opened(), method="tracin", rates=0.1, samples=[1, 2], store=tmp_path / "some")
    with pytest.raises(RecordingMismatch, match="Build the model it was recorded with"):
        hg.InfluenceStore.open(tmp_path / "rows", run_network(), loss)
    shutil.rmtree(tmp_path / "rows" / "checkpoint-001")
    shutil.copytree(tmp_path / "some" / "checkpoint-001", tmp_path / "rows" / "checkpoint-001")
    with pytest.raises(RunDamaged, match="holds other samples than"):
        read(tmp_path / "rows")
    with pytest.raises(RunNotFound, match="holds no rows"):
        read(tmp_path / "nothing")
    (tmp_path / "rows" / "rows.json").write_text(json.dumps([1]))
    with pytest.raises(RunDamaged, match="can't be read"):
        read(tmp_path / "rows")


def test_rows_that_would_not_fit_are_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("hydragrad.tracking.new_store.psutil.virtual_memory", lambda: type("M", (), {"available": 10}))
    with pytest.raises(NotEnoughMemory, match="72 rows of 53 numbers"):
        hg.influence_rows(opened(), method="tracin", rates=0.1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("D", (), {"free": 10}))
    with pytest.raises(DiskFull, match="Track fewer samples, project"):
        hg.influence_rows(opened(), method="tracin", rates=0.1, store=tmp_path / "rows")
    assert not list((tmp_path / "rows").iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "lissa"}, "one of nystrom, ekfac, tracin, got 'lissa'"),
        ({"method": "tracin", "rates": 0.1, "damping": 0.1}, "TracIn has no damping"),
        ({"rates": 0.1}, "rates= belong to method='tracin'"),
        ({"projection": 0}, "1 or more dimensions"),
        ({"damping": -1.0}, "damping must be finite and not negative"),
        ({"method": "tracin"}, "must be given: rates=0.1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(QueryError, match=message):
        hg.influence_rows(opened(), **options)


def test_an_inverse_that_cannot_be_had_is_refused_by_name(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no rule")

    monkeypatch.setattr("hydragrad.attribution.gauss_newton_matrix.low_rank", fails)
    with pytest.raises(Unsupported, match=r"method='nystrom' can't be had here: no rule. Take method='tracin'"):
        hg.influence_rows(opened())


def test_scores_of_another_version_are_refused(tmp_path):
    from hydragrad.tracking.facts import opened_seal, write_sealed

    hg.influence_rows(opened(), method="tracin", rates=0.1, store=tmp_path / "rows")
    file = tmp_path / "rows" / "rows.json"
    body = opened_seal(file, json.loads(file.read_text()))
    write_sealed(file, {**body, "schema": 2})
    with pytest.raises(RecordingMismatch, match="written by another version"):
        read(tmp_path / "rows")
    write_sealed(file, {name: value for name, value in body.items() if name != "evidence"})
    with pytest.raises(RunDamaged, match="lacks its evidence"):
        read(tmp_path / "rows")
