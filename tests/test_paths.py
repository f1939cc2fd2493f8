"""Paths are made absolute when objects are made; what can't be written or read is named."""

import os
from contextlib import contextmanager

import pytest
import torch

import hydragrad as hg
from hydragrad.errors import NotWritable, RunDamaged, RunNotFound
from twins import held_out, loss, made, mlp, record, sgd, vectors

QUERY = hg.mean_loss(held_out())


def train(path, **options):
    model = made(mlp)
    return hg.train(model, loss, vectors(), sgd(model), epochs=2, batch_size=4, out=path, **options)


def opened(path):
    return hg.Recording(path, made(mlp), loss, vectors())


def tracked(path):
    model = made(mlp)
    optimizer, data = sgd(model), vectors()
    with hg.Tracker(model, optimizer, loss, data, store=path) as tracker, tracker.step([0, 1]):
        loss(model, data[[0, 1]]).mean().backward()
        optimizer.step()
    return tracker


@contextmanager
def working_in(folder):
    before = os.getcwd()
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def read_only(folder):
    """Without permission to write: as another user, where this one may do everything."""
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*")) if path.is_dir()}
    user = os.geteuid()
    for path in modes:
        path.chmod(0o555)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        for path, mode in modes.items():
            path.chmod(mode)


@pytest.fixture
def readable(tmp_path):
    """A folder that other users may look into, as pytest's own may not be."""
    every = {folder: folder.stat().st_mode for folder in (tmp_path, *tmp_path.parents)}
    modes = {folder: mode for folder, mode in every.items() if mode & 0o055 != 0o055}
    for folder, mode in modes.items():
        folder.chmod(mode | 0o055)
    yield tmp_path
    for folder, mode in modes.items():
        folder.chmod(mode)


def test_a_run_is_found_after_another_working_directory_was_chosen(tmp_path):
    with working_in(tmp_path / "a"):
        run = train("run")
        store = hg.hypergradients(run, store="store")
        tracker = tracked("tracked")
        recorder_model = made(mlp)
        recorder = hg.Recorder("recorded", recorder_model, sgd(recorder_model), loss, vectors())
    with working_in(tmp_path / "b"):
        torch.testing.assert_close(hg.attribute(run, QUERY).values, store.contributions(QUERY).values)
        assert tracker.contributions(QUERY).values.abs().sum() > 0
        with recorder:
            pass
        assert not any((tmp_path / "b").iterdir())
    assert (tmp_path / "a" / "recorded" / "manifest.json").exists()


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    run = train(tmp_path / "run")
    file = tmp_path / "file"
    file.write_text("")
    scores = hg.attribute(run, QUERY)
    for path in (file, file / "below"):
        for write in (train, tracked, lambda path: hg.hypergradients(run, store=path), hg.hypergradients(run).save):
            with pytest.raises(NotWritable, match=r"must be in a folder that may be written"):
                write(path)
    for write in (
        scores.save,
        lambda path: hg.report(run, scores, path),
        lambda path: hg.hypergradients(run).contributions(QUERY, out=path),
    ):
        with pytest.raises(NotWritable, match="must be in a folder that may be written"):
            write(file / "below")
    with pytest.raises(NotWritable, match="Is a directory"):
        hg.report(run, scores, tmp_path / "run")
    with pytest.raises(RunNotFound, match="is no run directory"):
        opened(file)
    with pytest.raises(RunNotFound, match="There are no scores at"):
        hg.Scores.load(tmp_path / "none")
    assert file.read_text() == ""


def test_a_run_in_a_read_only_folder_is_attributed(readable):
    train(readable / "run")
    with read_only(readable / "run"):
        run = opened(readable / "run")
        scores = hg.attribute(run, QUERY, labels=True, curvature="hessian")
        assert scores.values.abs().max() > 0
        assert hg.counterfactual(run, [[1]], QUERY).values.abs().max() > 0
        assert hg.smoothness(run).rounding_growth > 0
        assert len(hg.suspects(run, scores)) == 12
        for write in (
            lambda: train(readable / "run" / "other"),
            lambda: train(readable / "run", resume=True),
            lambda: hg.report(run, scores, readable / "run" / "report.html"),
            lambda: hg.hypergradients(run, store=readable / "run" / "store"),
        ):
            with pytest.raises(NotWritable, match=r"must be in a folder that may be written.* Permission denied"):
                write()


@pytest.mark.parametrize("name", ["manifest.json", "steps.jsonl", "checkpoints.jsonl", "checkpoints"])
def test_a_run_that_may_not_be_read_is_named(readable, name):
    record(readable / "run")
    hidden = readable / "run" / name
    mode = hidden.stat().st_mode
    hidden.chmod(0)
    try:
        said = r"may not be read \(Permission denied\)\. Change its permissions"
        with read_only(readable / "no folder"), pytest.raises(RunDamaged, match=said):
            opened(readable / "run")
    finally:
        hidden.chmod(mode)
