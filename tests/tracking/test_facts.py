"""Stores that earlier versions wrote are read; what this version does not know is refused by name."""

import json
import zlib

import pytest
import torch

import hydragrad as hg
from attribution import oracle
from cases import Case
from hydragrad.errors import RecordingMismatch, RunDamaged, RunNotFound
from hydragrad.tracking import Store, hypergradients
from hydragrad.tracking.facts import FILE, GROWING, LOG, SCHEMA, read_facts

MLP = Case("mlp", "warm")
ADDED_BY_SCHEMA_2 = ("optimizer", "ages", "smoothing", "notes")


def rewrite(file, change, *, sealed=True):
    """Change a store's entries as another version would have written them."""
    body = json.loads(file.read_text())
    body.pop("crc32", None)
    change(body)
    if sealed:
        body["crc32"] = zlib.crc32(json.dumps(body, sort_keys=True).encode())
    file.write_text(json.dumps(body))


def as_schema_1(body):
    """Schema 1 knew SGD alone, and listed the parameters that had a momentum buffer when tracking began."""
    for name in ADDED_BY_SCHEMA_2:
        del body[name]
    body |= {"schema": 1, "warm": list(body["parameters"])}


def test_a_store_of_schema_1_is_read(recorded, tmp_path):
    run, query = recorded(MLP), hg.mean_loss(MLP.held_out)
    expected = hypergradients(run, store=tmp_path / "store").contributions(query).values
    rewrite(tmp_path / "store" / FILE, as_schema_1)
    store = Store.open(tmp_path / "store", MLP.build(), MLP.loss)
    assert store.facts.optimizer == "torch.optim.sgd.SGD" and store.facts.smoothing == 0.0
    assert torch.equal(store.contributions(query).values, expected)
    assert oracle.relative(expected, hg.attribute(run, query).values) < 1e-10


def test_an_unfinished_store_of_schema_1_is_refused_by_name(recorded, tmp_path, monkeypatch):
    run, real, calls = recorded(MLP), hg.Recording.batches, []

    def interrupted(self, step):
        calls.append(step)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(self, step)

    monkeypatch.setattr(hg.Recording, "batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hypergradients(run, store=tmp_path / "store")
    monkeypatch.undo()
    rewrite(tmp_path / "store" / GROWING, as_schema_1, sealed=False)
    refusal = rf"unfinished store of schema 1.*resumes schema {SCHEMA} only"
    with pytest.raises(RecordingMismatch, match=refusal):
        hypergradients(run, store=tmp_path / "store")
    (tmp_path / "store" / LOG).touch()
    with pytest.raises(RecordingMismatch, match=refusal):
        Store.open(tmp_path / "store", MLP.build(), MLP.loss)


def test_what_this_version_does_not_know_is_named(recorded, tmp_path):
    hypergradients(recorded(MLP), store=tmp_path / "store")
    file = tmp_path / "store" / FILE
    original = file.read_text()
    for entries, message in (
        ({"schema": SCHEMA + 1}, f"schema {SCHEMA + 1}; this version reads schemas up to {SCHEMA}"),
        ({"precision": 3}, r"\['precision'\], unknown to this version"),
        ({"batch_statistics": "running"}, "batch_statistics='running', unknown"),
    ):
        file.write_text(original)
        rewrite(file, lambda body, entries=entries: body.update(entries))
        with pytest.raises(RecordingMismatch, match=message):
            read_facts(tmp_path / "store")
    file.write_text(original.replace('"steps": 16', '"steps": 15'))
    with pytest.raises(RunDamaged, match="does not have the checksum"):
        read_facts(tmp_path / "store")
    with pytest.raises(RunNotFound, match="no finished store"):
        read_facts(tmp_path)
