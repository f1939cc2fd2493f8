"""The store of a recorded run gives what `attribute` gives, for every model and option set."""

import dataclasses
from unittest import mock

import numpy as np
import pytest
import torch

import hydragrad as hg
from attribution import oracle
from cases import ADAPTIVE_CASES, CASES, EVERY_MODEL, OPTIONS, SAMPLES, Case, record
from hydragrad.errors import DiskFull, QueryError, RecordingMismatch, RunDamaged, RunExists, Unsupported
from hydragrad.tracking import Store, hypergradients

MLP = Case("mlp", "all")


def queries(case):
    return [hg.mean_loss(case.held_out, "mean"), hg.sample_losses(case.held_out, [3, 5])]


@pytest.mark.parametrize("case", CASES + ADAPTIVE_CASES, ids=lambda case: case.name)
def test_without_curvature_rows_give_what_attribute_gives(case, recorded):
    run = recorded(case)
    expected = hg.attribute(run, queries(case))
    found = hypergradients(run).contributions(queries(case))
    assert expected.values.abs().max() > 0
    assert oracle.relative(found.values, expected.values) < 1e-10
    assert found.query_names == expected.query_names
    assert oracle.relative(found.query_values, expected.query_values) < 1e-12


@pytest.mark.parametrize(
    "case", [c for c in EVERY_MODEL + ADAPTIVE_CASES if c.model.curvature], ids=lambda case: case.name
)
def test_exact_rows_give_what_the_exact_sweep_gives(case, recorded):
    run = recorded(case)
    expected = hg.attribute(run, queries(case), curvature="hessian")
    found = hypergradients(run, curvature="hessian").contributions(queries(case))
    assert oracle.relative(found.values, expected.values) < 1e-8


@pytest.mark.parametrize("name", ["stopped", "tied_padded"])
def test_exact_rows_need_a_symmetric_curvature(name, recorded):
    with pytest.raises(Unsupported, match="symmetric curvature"):
        hypergradients(recorded(Case(name, "all")), curvature="hessian")


@pytest.mark.parametrize("options", ["switched", "late", "regrouped", "warm", "maximize", "replacement", "sum"])
def test_exact_rows_under_every_kind_of_option(options, recorded):
    case = Case("batch_norm", options)
    run, chosen = recorded(case), [4, 1, 17]
    expected = hg.attribute(run, queries(case), curvature="hessian", samples=chosen)
    found = hypergradients(run, curvature="hessian", samples=chosen).contributions(queries(case))
    assert oracle.relative(found.values, expected.values) < 1e-8
    assert found.sample_ids.tolist() == chosen


@pytest.mark.parametrize("curvature", ["none", "hessian"])
def test_parameters_that_the_optimizer_never_moves_have_no_columns(curvature, tmp_path):
    case = Case("partly_frozen", "adamw")
    every = dataclasses.replace(case.options, optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=0.02))
    with mock.patch.dict(OPTIONS, {"adamw": every}):
        run = record(case, tmp_path / "run")
    expected = hg.attribute(run, queries(case), curvature=curvature)
    found = hypergradients(run, curvature=curvature).contributions(queries(case))
    assert oracle.relative(found.values, expected.values) < 1e-8


def test_some_samples_in_their_order(recorded):
    run, chosen = recorded(MLP), [7, 2, 11]
    found = hypergradients(run, samples=chosen).contributions(queries(MLP))
    expected = hg.attribute(run, queries(MLP), samples=chosen)
    assert oracle.relative(found.values, expected.values) < 1e-10
    assert found.sample_ids.tolist() == chosen


@pytest.mark.parametrize("curvature", ["none", "hessian"])
def test_disk_equals_memory_and_numpy_alone_reads_it(curvature, recorded, tmp_path):
    run = recorded(MLP)
    memory = hypergradients(run, curvature=curvature)
    hypergradients(run, curvature=curvature, store=tmp_path / "store")
    opened = Store.open(tmp_path / "store", MLP.build(), MLP.loss)
    np.testing.assert_array_equal(np.load(tmp_path / "store" / "rows.npy"), memory.rows)
    assert np.load(tmp_path / "store" / "samples.npy").tolist() == list(range(SAMPLES))
    same = opened.contributions(queries(MLP)).values
    assert torch.equal(same, memory.contributions(queries(MLP)).values)
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [
        "checksums.npy",
        "final.safetensors",
        "rows.npy",
        "samples.npy",
        "store.json",
    ]


def test_a_saved_store_opens(recorded, tmp_path):
    store = hypergradients(recorded(MLP))
    store.save(tmp_path / "kept")
    opened = Store.open(tmp_path / "kept", MLP.build(), MLP.loss)
    assert torch.equal(opened.contributions(queries(MLP)).values, store.contributions(queries(MLP)).values)
    with pytest.raises(RunExists, match="already holds a store"):
        store.save(tmp_path / "kept")


@pytest.mark.parametrize("case", [MLP, Case("batch_norm", "late")], ids=lambda case: case.name)
def test_an_interrupted_store_is_resumed_to_the_same_rows(case, recorded, tmp_path, monkeypatch):
    run = recorded(case)
    expected = hypergradients(run).rows
    calls, real = [], hg.Recording.batches

    def interrupted(self, record):
        calls.append(record.step)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return real(self, record)

    monkeypatch.setattr(hg.Recording, "batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hypergradients(run, store=tmp_path / "store")
    monkeypatch.undo()
    with pytest.raises(RecordingMismatch, match="begun with other samples"):
        hypergradients(run, store=tmp_path / "store", samples=[1])
    found = hypergradients(run, store=tmp_path / "store").rows
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(RunExists, match="already holds a store"):
        hypergradients(run, store=tmp_path / "store")


@pytest.mark.parametrize("curvature", ["none", "hessian"])
@pytest.mark.parametrize("options", ["adamw", "adam_warm", "amsgrad"])
def test_adam_rows_on_disk_are_resumed_to_the_same_rows(options, curvature, recorded, tmp_path, monkeypatch):
    case, folder = Case("mlp", options), tmp_path / "store"
    run = recorded(case)
    expected = hypergradients(run, curvature=curvature).rows
    assert np.abs(expected).max() > 0
    calls, real = [], hg.Recording.batches

    def interrupted(self, record):
        calls.append(record.step)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return real(self, record)

    monkeypatch.setattr(hg.Recording, "batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hypergradients(run, curvature=curvature, store=folder)
    monkeypatch.undo()
    with pytest.raises(RunDamaged, match=r"replay that fills .* was interrupted\. Finish it"):
        Store.open(folder, case.build(), case.loss)
    with pytest.raises(RecordingMismatch, match="begun with other smoothing"):
        hypergradients(run, curvature=curvature, store=folder, smoothing=0.0)
    np.testing.assert_array_equal(hypergradients(run, curvature=curvature, store=folder).rows, expected)
    opened = Store.open(folder, case.build(), case.loss)
    np.testing.assert_array_equal(opened.rows, expected)
    assert opened.facts.optimizer == run.rules[0].name and opened.facts.smoothing == 0.01
    assert not list(folder.glob("table-*"))


def test_a_table_that_was_killed_inside_a_step_is_restored(tmp_path):
    from hydragrad.tracking.rows.table import Table

    table = Table.create(tmp_path, rows=4, width=3, accumulators=2, dtype=torch.float64, room=2, state_bytes=8)
    state = {"w": torch.tensor([1.0], dtype=torch.float64)}
    table.change(np.array([0, 2]), torch.ones(2, 2, 3, dtype=torch.float64), state)
    before = table.read(np.arange(4)).clone()
    # What a kill leaves: journal written, word odd, some rows changed.
    table._journal(np.array([2, 3]))
    table._set_word(3)
    table._put(np.array([2]), torch.full((2, 1, 3), 9.0, dtype=torch.float64), 2)
    again = Table.open(tmp_path, torch.float64)
    assert torch.equal(again.read(np.arange(4)), before)
    assert again.steps == 1 and again.touched.tolist() == [1, 0, 1, 0]
    assert torch.equal(again.state(state)["w"], state["w"])


def test_extremes_of_projected_rows_have_standard_errors(recorded):
    run, seeds, case = recorded(MLP), 60, hg.mean_loss(MLP.held_out)
    found = [
        hypergradients(run, projection=24, projection_seed=s).contributions(case, top=SAMPLES) for s in range(seeds)
    ]
    by_sample = torch.stack([top.helpful[0][top.helpful_ids[0].argsort()] for top in found])
    errors = torch.stack([top.helpful_noise[0][top.helpful_ids[0].argsort()] for top in found])
    ratio = by_sample.std(0) / errors.square().mean(0).sqrt()
    # 60 seeds measure a standard deviation to a tenth; columns of one chunk never meet, so the error is a bound.
    assert 0.5 < ratio.median() < 1.1
    assert hypergradients(run).contributions(case, top=1).helpful_noise is None
    last = hypergradients(run, projection=24, projection_seed=seeds - 1).contributions(case)
    torch.testing.assert_close(last.standard_errors[0], errors[-1], rtol=1e-12, atol=0)
    assert hypergradients(run).contributions(case).standard_errors is None


def test_matrix_on_disk_and_extremes(recorded, tmp_path):
    store = hypergradients(recorded(MLP))
    everything = hg.sample_losses(MLP.held_out, range(9))
    whole = store.contributions(everything).values
    small = 4 * store.rows.shape[1] * 8 * 2  # two queries at a time
    written = store.contributions(everything, out=tmp_path / "all.npy", memory=small)
    np.testing.assert_allclose(written, whole.numpy(), rtol=1e-12)
    np.testing.assert_array_equal(np.load(tmp_path / "all.npy"), written)
    top = store.contributions(everything, top=3, memory=small)
    helpful, harmful = whole.topk(3), whole.topk(3, largest=False)
    assert torch.equal(top.helpful_ids, helpful.indices) and torch.equal(top.harmful_ids, harmful.indices)
    torch.testing.assert_close(top.helpful, helpful.values)
    frame = top.to_frame()
    assert list(frame.columns) == ["query", "sample", "contribution"] and len(frame) == 9 * 6
    with pytest.raises(QueryError, match="top must be 1 to 18"):
        store.contributions(everything, top=0)
    with pytest.raises(QueryError, match="not both"):
        store.contributions(everything, top=1, out=tmp_path / "x.npy")


def test_projected_contributions_are_right_on_average(recorded):
    run, query = recorded(Case("convolution", "two_groups")), hg.mean_loss(Case("convolution", "plain").held_out)
    exact = hg.attribute(run, query).values[0]
    projected = torch.stack(
        [hypergradients(run, projection=24, projection_seed=s).contributions(query).values[0] for s in range(60)]
    )
    error = projected.std(0) / 60**0.5
    assert ((projected.mean(0) - exact).abs() < 5 * error + 1e-12).all() and (error > 0).any()
    whole = hypergradients(run, projection=10_000).contributions(query).values[0]
    assert oracle.relative(whole, exact) < 1e-10


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 3e-2)])
def test_smaller_number_formats(dtype, tolerance, recorded, tmp_path):
    run = recorded(MLP)
    store = hypergradients(run, dtype=dtype, store=tmp_path / "store")
    expected = hg.attribute(run, queries(MLP)).values
    assert oracle.relative(store.contributions(queries(MLP)).values, expected) < tolerance
    opened = Store.open(tmp_path / "store", MLP.build(), MLP.loss)
    assert torch.equal(opened.contributions(queries(MLP)).values, store.contributions(queries(MLP)).values)


@pytest.mark.parametrize("options", ["adamw", "amsgrad"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_smaller_number_formats_of_adam_rows(dtype, tolerance, options, recorded, tmp_path):
    case = Case("mlp", options)
    run = recorded(case)
    expected = hypergradients(run).contributions(queries(case)).values
    store = hypergradients(run, dtype=dtype, store=tmp_path / "store")
    difference = oracle.relative(store.contributions(queries(case)).values, expected)
    assert 0 < difference < tolerance
    opened = Store.open(tmp_path / "store", case.build(), case.loss)
    assert torch.equal(opened.contributions(queries(case)).values, store.contributions(queries(case)).values)


def test_projected_adam_rows_are_refused_by_name(recorded):
    for options, name in (("adam", "Adam"), ("adamw", "AdamW")):
        with pytest.raises(QueryError, match=rf"Under {name} every coordinate .* hg\.attribute\(run, query\)"):
            hypergradients(recorded(Case("mlp", options)), projection=8)


def test_bad_input_gets_a_named_error(recorded, tmp_path, monkeypatch):
    run = recorded(MLP)
    with pytest.raises(QueryError, match="samples 0 to 17"):
        hypergradients(run, samples=[3, 18])
    with pytest.raises(QueryError, match="'none' or 'hessian'"):
        hypergradients(run, curvature="ggn")
    with pytest.raises(QueryError, match="leave projection out"):
        hypergradients(run, curvature="hessian", projection=4)
    with pytest.raises(ValueError, match="Rows are stored as"):
        hypergradients(run, dtype=torch.float16)
    store = hypergradients(run, store=tmp_path / "store")
    with pytest.raises(RecordingMismatch, match="this model has"):
        Store.open(tmp_path / "store", Case("convolution", "all").build(), MLP.loss)
    with pytest.raises(QueryError, match="Expected queries made by"):
        store.contributions([])
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(DiskFull, match="projection=2048"):
        hypergradients(run, store=tmp_path / "other")


def test_a_damaged_row_is_named(recorded, tmp_path):
    hypergradients(recorded(MLP), store=tmp_path / "store")
    rows = np.load(tmp_path / "store" / "rows.npy", mmap_mode="r+")
    rows[5, 2] += 1.0
    rows.flush()
    opened = Store.open(tmp_path / "store", MLP.build(), MLP.loss)
    with pytest.raises(RunDamaged, match=r"Row 5 \(training sample 5\)"):
        opened.contributions(hg.mean_loss(MLP.held_out))
    (tmp_path / "store" / "store.json").write_text("{}")
    with pytest.raises(RunDamaged, match=r"store\.json can't be read"):
        Store.open(tmp_path / "store", MLP.build(), MLP.loss)
