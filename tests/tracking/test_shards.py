"""A store in shards: the rows of a whole store, whoever fills them."""

from concurrent.futures import Future

import numpy as np
import pytest
import torch

import hydragrad as hg
from cases import SAMPLES, Case
from hydragrad.errors import QueryError, RunDamaged, RunExists, Unfinished
from hydragrad.execution.claims import Claims
from hydragrad.tracking import shards

CASE = Case("mlp", "momentum")


class Elsewhere:
    """An executor that has another process in mind, and does the job at once."""

    def submit(self, function, shipment, job):
        future = Future()
        label = shipment.label
        object.__setattr__(label, "origin", ("elsewhere", 1))
        future.set_result(function(shipment, job))
        return future


@pytest.mark.parametrize("options", [{}, {"curvature": "hessian"}, {"projection": 16}, {"dtype": torch.bfloat16}])
def test_shards_join_to_the_rows_of_the_whole_store(options, recorded, tmp_path):
    run = recorded(CASE)
    whole = hg.hypergradients(run, **options)
    store = hg.hypergradients(run, store=tmp_path / "here", shards=3, **options)
    there = hg.hypergradients(run, store=tmp_path / "there", shards=3, executor=Elsewhere(), **options)
    assert np.array_equal(store.rows, there.rows)
    assert torch.equal(store.sample_ids, whole.sample_ids)
    rows, expected = (torch.from_numpy(np.asarray(one.block(0, SAMPLES))) for one in (store, whole))
    assert torch.allclose(rows, expected, rtol=1e-12 if "dtype" not in options else 1e-2, atol=1e-15)
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [
        "checksums.npy",
        "final.safetensors",
        "rows.npy",
        "samples.npy",
        "store.json",
    ]
    opened = hg.Store.open(tmp_path / "there", CASE.build(), CASE.loss)
    query = hg.mean_loss(CASE.held_out)
    assert torch.equal(opened.contributions(query).values, store.contributions(query).values)
    assert opened.facts == whole.facts


def test_slices_fill_shards_of_one_store(recorded, tmp_path):
    run = recorded(CASE)
    expected = hg.hypergradients(run, store=tmp_path / "whole", shards=4)
    store, options = tmp_path / "sliced", {"shards": 4}
    with Claims(store / "shards") as others:
        assert others.take("00002")
        with pytest.raises(Unfinished, match="Part 1/2 is done; 1 of 4 shards are still missing"):
            hg.hypergradients(run, store=store, part="1/2", **options)
    last = hg.hypergradients(run, store=store, part="2/2", **options)
    assert np.array_equal(last.rows, expected.rows)
    late = hg.hypergradients(run, store=store, part="1/2", **options)
    assert np.array_equal(late.rows, expected.rows)
    with pytest.raises(RunExists, match="other samples"):
        hg.hypergradients(run, store=store, part="1/2", samples=range(5), **options)
    with pytest.raises(RunExists, match="already holds a store"):
        hg.hypergradients(run, store=store, **options)


def test_shards_that_an_interrupted_call_filled_are_taken_over(recorded, tmp_path, monkeypatch):
    run, fills = recorded(CASE), []
    expected = hg.hypergradients(run, store=tmp_path / "whole", shards=3)

    def interrupted(self, number):
        if len(fills) == 2:
            raise KeyboardInterrupt
        fills.append(number)
        return original(self, number)

    original = shards._Filling.__call__
    monkeypatch.setattr(shards._Filling, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hg.hypergradients(run, store=tmp_path / "store", shards=3)
    monkeypatch.setattr(shards._Filling, "__call__", original)
    written = (tmp_path / "store" / "shards" / "00000" / "store.json").stat().st_mtime_ns
    monkeypatch.setattr(shards.shutil, "rmtree", lambda *_, **__: None)
    assert np.array_equal(hg.hypergradients(run, store=tmp_path / "store", shards=3).rows, expected.rows)
    assert (tmp_path / "store" / "shards" / "00000" / "store.json").stat().st_mtime_ns == written


def test_a_damaged_shard_is_not_joined(recorded, tmp_path, monkeypatch):
    run = recorded(CASE)
    with Claims(tmp_path / "shards") as others, pytest.raises(Unfinished):
        assert others.take("00001")
        hg.hypergradients(run, store=tmp_path, shards=2, part="1/2")
    rows = np.load(tmp_path / "shards" / "00000" / "rows.npy", mmap_mode="r+")
    rows[1, 0] += 1
    rows.flush()
    with pytest.raises(RunDamaged, match="Row 1 "):
        hg.hypergradients(run, store=tmp_path, shards=2)


def test_impossible_shards_are_refused(recorded, tmp_path):
    run = recorded(CASE)
    for count in (0, SAMPLES + 1):
        with pytest.raises(QueryError, match="shards must be 1 to"):
            hg.hypergradients(run, store=tmp_path, shards=count)
    with pytest.raises(QueryError, match="give store=, a folder"):
        hg.hypergradients(run, shards=2)
    with pytest.raises(QueryError, match="divides the shards of a store"):
        hg.hypergradients(run, store=tmp_path, executor="processes")
