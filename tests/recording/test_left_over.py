"""Micro-batches at a loop's end that no optimizer step follows."""

import pytest

import hydragrad as hg
from hydragrad.errors import StepError
from hydragrad.runs.manifest import read_manifest
from recording.toys import build, build_batch_norm, loss, replays_to_the_bit, samples, sgd


def train(path, model):
    optimizer = sgd(model)
    with hg.Recorder(path, model, optimizer, loss, samples()) as recorder:
        for number in range(5):
            with recorder.step(range(4 * number, 4 * number + 4)) as step:
                (step.losses(samples()[4 * number : 4 * number + 4]).mean() / 2).backward()
                if number % 2:
                    optimizer.step()
                    optimizer.zero_grad()


def test_they_are_no_part_of_a_run_that_is_complete(tmp_path):
    train(tmp_path, build())
    run = hg.Recording(tmp_path, build(), loss, samples())
    assert run.completed and len(run.steps) == 2
    assert replays_to_the_bit(run)


def test_where_they_moved_running_statistics_the_end_is_refused_by_name(tmp_path):
    with pytest.raises(StepError, match=r"further micro-batches came without optimizer.step\(\)"):
        train(tmp_path, build_batch_norm())
    assert read_manifest(tmp_path).steps == 2


def test_stored_batches_of_micro_batches_are_read_again(tmp_path):
    model = build()
    optimizer = sgd(model)
    with hg.Recorder(tmp_path, model, optimizer, loss, samples(), store_batches=True) as recorder:
        for number in range(4):
            indices = range(4 * number, 4 * number + 4)
            x, y = samples()[4 * number : 4 * number + 4]
            with recorder.step(indices) as step:
                step.losses([x + number, y]).mean().backward()  # data that only the loop has
                if number % 2:
                    optimizer.step()
                    optimizer.zero_grad()
    run = hg.Recording(tmp_path, build(), loss, samples())
    assert replays_to_the_bit(run)
    assert hg.attribute(run, hg.mean_loss(samples()), curvature="hessian").values.isfinite().all()
