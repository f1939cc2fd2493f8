import dataclasses
import json

import pytest
import torch
from torch import nn

from hydragrad.errors import RecordingMismatch, RunDamaged, RunNotFound
from hydragrad.replay.machine import this_machine
from hydragrad.runs.manifest import (
    FILE,
    Manifest,
    closed,
    model_facts,
    read_manifest,
    require_same_model,
    write_manifest,
)
from recording.toys import build_batch_norm


def manifest(**changes):
    facts = {
        "machine": this_machine(torch.device("cpu")),
        "model": model_facts(build_batch_norm()),
        "data": {"length": 3, "digest": "0f", "items": [1, 2]},
        "reduction": "mean",
        "seed": 2**62 - 1,
        "store_batches": False,
        "about": {"name": "Größe", "rates": [0.1, 1e-300]},
    }
    return Manifest(**(facts | changes))


def test_a_manifest_comes_back(tmp_path):
    for given in (manifest(), closed(manifest(seed=4), "completed", 7)):
        write_manifest(tmp_path, given)
        assert read_manifest(tmp_path) == given


def test_every_altered_byte_is_noticed(tmp_path):
    write_manifest(tmp_path, manifest())
    written = (tmp_path / FILE).read_bytes()
    for place in range(len(written) - 1):  # the last one is the end of the line
        content = bytearray(written)
        content[place] ^= 1
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises((RunDamaged, RecordingMismatch), match=r"can't be read|checksum|written in schema"):
            read_manifest(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"schema": 1}'])
def test_what_is_no_manifest_is_named(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(RunDamaged, match=r"manifest.json can't be read .* Restore it"):
        read_manifest(tmp_path)


def test_a_folder_without_one_is_no_run(tmp_path):
    with pytest.raises(RunNotFound, match=r"is no run directory: it has no manifest.json. Record a run there"):
        read_manifest(tmp_path)


def test_another_schema_names_who_can_read_it(tmp_path):
    write_manifest(tmp_path, dataclasses.replace(manifest(), schema=9, machine={"hydragrad": "7.1"}))
    with pytest.raises(
        RecordingMismatch, match=r"written in schema 9; .* reads schemas up to 3. .*recorded it \(7.1\)"
    ):
        read_manifest(tmp_path)


def net(width=6, *extra):
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), *extra)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            net(6, nn.Linear(6, 2)),
            r"with 42 numbers in parameters; this model has 56 \(added: 2.weight; added: 2.bias\)",
        ),
        (nn.Sequential(nn.Linear(4, 6)), r"42 .* has 30 \(missing: 1.weight; missing: 1.bias\)"),
        (net(7), r"0.weight: recorded \[\[6, 4\], 'torch.float32'\], given \[\[7, 4\]"),
        (net().double(), r"given \[\[6, 4\], 'torch.float64'\]"),
        (
            nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False)),
            r"in buffers; this model has 0 \(missing: 1.running_mean",
        ),
    ],
)
def test_another_model_is_told_by_its_differences(tmp_path, model, message):
    require_same_model(model_facts(net()), net(), tmp_path)
    with pytest.raises(RecordingMismatch, match=message):
        require_same_model(model_facts(net()), model, tmp_path)


def test_a_long_list_of_differences_is_cut(tmp_path):
    with pytest.raises(RecordingMismatch, match=r"; \.\.\.\). Build the model it was recorded with"):
        require_same_model(model_facts(net(6, net(6), net(6))), net(), tmp_path)


def test_it_can_be_read_without_us(tmp_path):
    write_manifest(tmp_path, manifest())
    body = json.loads((tmp_path / FILE).read_text())
    assert {"machine", "model", "data", "seed", "status", "schema"} <= body.keys()
    assert {"torch", "python", "threads", "device", "processor"} <= body["machine"].keys()
