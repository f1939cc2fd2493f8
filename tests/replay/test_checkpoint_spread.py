"""Checkpoints that stand for a run are even in steps, whether hg.train or a Recorder spaced them."""

from types import SimpleNamespace

import hydragrad as hg
from hydragrad.replay.checkpoint_spread import checkpoint_at, spread_steps
from recording.toys import build, loss, samples, sgd


def run_with(starts, length):
    stops = [*starts[1:], length]
    return SimpleNamespace(steps=[None] * length, segments=list(zip(starts, stops, strict=True)))


SQUARES = [step * step for step in range(10)]
"""As a Recorder spaces them: dense at the start."""


def test_ends_of_equal_parts_leave_the_start_out_and_take_the_end():
    run = run_with(range(0, 100, 10), 100)
    assert spread_steps(run, 4) == [20, 50, 70, 100]  # 25 and 75 lie halfway: the earlier one
    assert spread_steps(run, 1) == [100]
    assert spread_steps(run, 1000) == [*range(10, 101, 10)]


def test_starts_of_equal_parts_take_the_start_and_leave_the_end_out():
    run = run_with(range(0, 100, 10), 100)
    assert spread_steps(run, 4, at="starts") == [0, 20, 50, 70]
    assert spread_steps(run, 1, at="starts") == [0]
    assert spread_steps(run, 1000, at="starts") == [*range(0, 100, 10)]


def test_checkpoints_that_are_dense_at_the_start_are_spread_evenly_by_steps():
    assert spread_steps(run_with(SQUARES, 100), 5) == [16, 36, 64, 81, 100]
    assert spread_steps(run_with(SQUARES, 100), 5, at="starts") == [0, 16, 36, 64, 81]


def test_parts_that_grow_are_dense_at_the_start():
    run = run_with(range(0, 1000, 10), 1000)
    assert spread_steps(run, 5, power=3) == [10, 60, 220, 510, 1000]
    assert spread_steps(run, 5, power=1) == spread_steps(run, 5)


def test_where_checkpoints_are_few_each_is_listed_once():
    assert spread_steps(run_with([0, 3], 100), 10) == [3, 100]
    assert spread_steps(run_with([0], 100), 10) == [100]
    assert spread_steps(run_with([0], 100), 10, at="starts") == [0]


def test_the_end_is_the_trained_weights(tmp_path):
    model, data = build(), samples()
    run = hg.train(model, loss, data, sgd(model), epochs=2, batch_size=4, out=tmp_path / "run", checkpoint_every=3)
    (first, *_, last) = steps = spread_steps(run, 3)
    assert last == len(run.steps) and len(steps) == 3
    assert checkpoint_at(run, last) is run.final
    assert checkpoint_at(run, first).step == first and run.has_checkpoint(first)
