"""A first step that is refused, or never over, does not bar the way of the call that mends it."""

import os
import signal

import pytest
import torch
from torch import nn

from hydragrad import errors
from hydragrad.recording.run_writer import RunWriter
from hydragrad.runs import lines
from hydragrad.runs.manifest import read_manifest
from hydragrad.runs.unstarted import holds_run, never_started
from recording.killing import Kill, killed, users_loop
from recording.test_faults import BLOCKS, LOSSES, block, recorder, with_nan
from recording.toys import Plain, build, digest, loss, samples, sgd, take_step, train


def trained_after(path, **options):
    """The corrected call."""
    assert train(path, **options).completed


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("how", BLOCKS)
def test_a_loop_whose_first_step_is_refused_leaves_what_it_found(tmp_path, how, there):
    path = tmp_path / "deep" / "run"
    if there:
        path.mkdir(parents=True)
        (path / "labels.safetensors").write_text("mine")
    before = digest(tmp_path)
    model = build()
    optimizer = sgd(model)
    with pytest.raises(BLOCKS[how][0]), recorder(path, model, optimizer) as r:
        block(r, model, optimizer, how)
    assert digest(tmp_path) == before
    assert path.exists() == there
    trained_after(path)


REFUSED = {
    **{came: ({"loss": LOSSES[came]}, errors.LossError) for came in LOSSES},
    "NaN in a batch": ({"data": with_nan(True), "batch_size": 22}, errors.NonFinite),
    "diverged": ({"loss": lambda model, batch: loss(model, batch) * torch.inf}, errors.NonFinite),
    "Ctrl-C": ({"data": Plain(lambda: os.kill(os.getpid(), signal.SIGINT))}, KeyboardInterrupt),
}


@pytest.mark.usefixtures("ctrl_c_raises")
@pytest.mark.parametrize("name", REFUSED)
def test_a_training_whose_first_step_is_refused_leaves_nothing(tmp_path, name):
    change, error = REFUSED[name]
    with pytest.raises(error):
        train(tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()
    trained_after(tmp_path / "run")


def test_stored_batches_go_as_well(tmp_path):
    model = build()
    optimizer = sgd(model)
    opened = recorder(tmp_path / "run", model, optimizer, store_batches=True)
    with pytest.raises(errors.ReplayMismatch), opened, opened.step(range(5), samples()[:5]):
        loss(model, samples()[5:10]).mean().backward()
        optimizer.step()
    assert not (tmp_path / "run").exists()


def test_a_run_killed_before_its_first_step_was_over_is_replaced(tmp_path):
    path = tmp_path / "run"
    killed(users_loop, path, stop=Kill("in", 0))
    (path / "labels.safetensors").write_text("mine")
    assert {"manifest.json", "steps.jsonl", "checkpoints.jsonl"} <= digest(path).keys()
    assert never_started(path) and not holds_run(path)
    trained_after(path)
    assert (path / "labels.safetensors").read_text() == "mine"


def test_it_may_be_resumed_as_well(tmp_path):
    killed(users_loop, tmp_path / "run", stop=Kill("in", 0))
    users_loop(tmp_path / "run", resume=True)
    users_loop(tmp_path / "straight")
    opened = [(tmp_path / name / "steps.jsonl").read_text() for name in ("run", "straight")]
    assert opened[0] == opened[1]


def test_an_empty_loop_is_replaced(tmp_path):
    model = build()
    with recorder(tmp_path, model, sgd(model)):
        pass
    trained_after(tmp_path)


@pytest.mark.parametrize("place", ["in", "after"])
def test_a_run_with_a_complete_step_is_kept(tmp_path, place):
    killed(users_loop, tmp_path, stop=Kill(place, 1))
    before = digest(tmp_path)
    assert holds_run(tmp_path)
    with pytest.raises(errors.RunExists):
        train(tmp_path)
    assert digest(tmp_path) == before


def test_a_later_step_that_is_refused_keeps_the_run(tmp_path):
    model = build()
    optimizer = sgd(model)
    with pytest.raises(errors.StepError), recorder(tmp_path, model, optimizer) as r:
        take_step(r, model, optimizer, range(5), samples()[:5])
        block(r, model, optimizer, "nothing")
    assert read_manifest(tmp_path).steps == 1


@pytest.mark.parametrize("steps", [0, 1])
def test_a_run_that_is_being_recorded_is_not_gone_on_with(tmp_path, monkeypatch, steps):
    monkeypatch.setattr(lines, "PATIENCE", 0)
    model, other = build(), build()
    optimizer = sgd(model)
    with recorder(tmp_path, model, optimizer) as r:
        for _ in range(steps):
            take_step(r, model, optimizer, range(5), samples()[:5])
        before = digest(tmp_path)
        with pytest.raises(errors.RunExists, match="being recorded now"):
            recorder(tmp_path, other, sgd(other), resume=True).__enter__()
        assert digest(tmp_path) == before
        take_step(r, model, optimizer, range(5), samples()[:5])
    assert read_manifest(tmp_path).steps == steps + 1


DAMAGES = {
    "log cut off": lambda path: (path / "steps.jsonl").write_text(""),
    "log gone": lambda path: (path / "steps.jsonl").unlink(),
    "log and index gone": lambda path: [(path / name).unlink() for name in ("steps.jsonl", "checkpoints.jsonl")],
    "manifest altered": lambda path: (path / "manifest.json").write_text("{}"),
}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("closed", [True, False])
def test_a_damaged_run_is_no_run_that_never_started(tmp_path, how, closed):
    if closed:
        train(tmp_path)
    else:
        killed(users_loop, tmp_path, stop=Kill("after", 8))
    DAMAGES[how](tmp_path)
    before = digest(tmp_path)
    with pytest.raises(errors.RunExists):
        train(tmp_path)
    assert digest(tmp_path) == before


def test_a_run_in_its_first_step_is_not_taken_from_whoever_records_it(tmp_path):
    model = build()
    optimizer = sgd(model)
    with recorder(tmp_path, model, optimizer) as r, r.step(range(5)):
        with pytest.raises(errors.RunExists):
            train(tmp_path)
        optimizer.zero_grad()
        loss(model, samples()[:5]).mean().backward()
        optimizer.step()
    assert read_manifest(tmp_path).steps == 1


def test_scores_beside_it_keep_it(tmp_path):
    killed(users_loop, tmp_path, stop=Kill("in", 0))
    (tmp_path / "scores").mkdir()
    with pytest.raises(errors.RunExists):
        train(tmp_path)


def test_what_somebody_put_there_stays(tmp_path):
    """Even in a folder that the recorder made."""

    def puts(model, batch):
        (tmp_path / "run" / "notes.txt").write_text("mine")
        return loss(model, batch).mean()

    model = nn.Sequential(*build())
    with pytest.raises(errors.LossError):
        train(tmp_path / "run", model, loss=puts)
    assert digest(tmp_path).keys() == {"run/notes.txt"}
    trained_after(tmp_path / "run")


def test_a_run_that_was_killed_before_its_manifest_is_replaced(tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("steps.jsonl", "checkpoints.jsonl"):
        (tmp_path / "run" / name).touch()
    assert never_started(tmp_path / "run")
    trained_after(tmp_path / "run")
    for name in ("manifest.json", "checkpoints.jsonl"):
        (tmp_path / "run" / name).unlink()
    assert not never_started(tmp_path / "run"), "a log with steps is no run that never started"


def test_of_two_processes_that_record_into_one_folder_the_second_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "PATIENCE", 0.0)
    model = build()
    optimizer = sgd(model)
    with recorder(tmp_path / "run", model, optimizer) as first:
        before = digest(tmp_path)
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        other = build()
        message = r"already holds a run .* This is process 1 of 2 that a launcher started: give each a folder"
        second = recorder(tmp_path / "run", other, sgd(other))
        with pytest.raises(errors.RunExists, match=message), second:
            pass
        monkeypatch.setattr(RunWriter, "require_free", lambda self: None)  # both looked at once
        monkeypatch.setattr("hydragrad.recording.run_writer.clear_away", lambda path: None)
        second = recorder(tmp_path / "run", other, sgd(other))
        with pytest.raises(errors.RunExists, match="is being recorded now"), second:
            pass
        assert digest(tmp_path) == before
        block(first, model, optimizer, "plain")
