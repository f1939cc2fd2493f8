"""Run directories of schema 1 are read, resumed and give what they gave."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import hydragrad as hg
from hydragrad.replay.fingerprints import first_trained_norm
from hydragrad.runs.checkpoints import CheckpointFolder, _digest
from hydragrad.runs.lines import AppendOnlyLines, read_lines
from hydragrad.runs.log import LOG
from hydragrad.runs.manifest import FILE, _checksum
from recording.toys import EPOCHS, build, log_of, loss, same_weights, samples, sgd, train


def first_norms(path):
    """The norm of the first trained parameter after every step, which was all that schema 1 noted of the state."""
    norms, run = [], opened(path)
    with run.replay() as replay:
        replay.trajectory.restore(run.initial)
        for record in run.steps:
            replay.advance(record, run.batches(record))
            norms.append(first_trained_norm(replay.trajectory.parameters, record.structure))
    return norms


def as_schema_1(path):
    """Write a run of SGD as schema 1 had it."""
    body = json.loads((path / FILE).read_text())
    body = {name: value for name, value in body.items() if name not in ("optimizers", "crc32")} | {"schema": 1}
    (path / FILE).write_text(json.dumps(body | {"crc32": _checksum(body)}))
    lines, norms = read_lines(path / LOG, "steps"), first_norms(path)
    (path / LOG).unlink()
    log = AppendOnlyLines(path / LOG)
    for line in lines:
        (part,) = line.pop("micro_batches")
        first = {"step": line.pop("step"), "indices": part["indices"], "batch_seed": part["batch_seed"]}
        log.append(first | {"norm": norms[first["step"]]} | {k: v for k, v in line.items() if k != "state"})
    log.close()
    folder = CheckpointFolder(path)
    steps = sorted(folder.entries())
    folder.index.unlink()
    index = AppendOnlyLines(folder.index)
    for step in steps:
        with safe_open(folder.path(step), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            plain = json.loads(file.metadata()["state"])
        plain.pop("unchanged")
        named = {key.replace("optimizer/momentum_buffer/", "momentum/"): value for key, value in tensors.items()}
        save_file(named, folder.path(step), {"state": json.dumps(plain)})
        index.append({"step": step, "sha256": _digest(folder.path(step))})
    index.close()


def opened(path):
    return hg.Recording(path, build(), loss, samples())


def test_a_run_gives_the_same_scores(tmp_path):
    run = train(tmp_path / "new")
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    as_schema_1(tmp_path / "old")
    old, query = opened(tmp_path / "old"), hg.mean_loss(samples(7))
    assert old.rules[0].torch_class is torch.optim.SGD
    without_digests = [tuple(replace(part, digest=None) for part in record.micro_batches) for record in run.steps]
    assert [record.micro_batches for record in old.steps] == without_digests
    assert not any(record.whole_state for record in old.steps)
    assert old.final.optimizer.keys() == run.final.optimizer.keys() != set()
    for curvature in ("none", "hessian"):
        assert torch.equal(
            hg.attribute(old, query, curvature=curvature).values, hg.attribute(run, query, curvature=curvature).values
        )


def test_a_run_is_resumed(tmp_path):
    straight = build()
    train(tmp_path / "straight", straight)
    train(tmp_path / "run", epochs=2)
    as_schema_1(tmp_path / "run")
    model = build()
    train(tmp_path / "run", model, epochs=EPOCHS, resume=True)
    assert same_weights(model, straight)
    assert json.loads((tmp_path / "run" / FILE).read_text())["schema"] == 2
    assert log_of(tmp_path / "run") != log_of(tmp_path / "straight")  # the first lines stay as they were
    assert opened(tmp_path / "run").completed


def test_it_is_not_resumed_with_another_optimizer(tmp_path):
    train(tmp_path)
    as_schema_1(tmp_path)
    model = build()
    with pytest.raises(hg.errors.RecordingMismatch, match=r"torch.optim.sgd.SGD'\], got \['torch.optim.adam.Adam"):
        train(tmp_path, model, optimizer=torch.optim.Adam(model.parameters()), resume=True)
    assert sgd(model).param_groups  # and SGD is
    train(tmp_path, model, resume=True)
