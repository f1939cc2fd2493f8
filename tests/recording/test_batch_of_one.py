"""A batch of one sample under BatchNorm is named, before the training where the loop is ours."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import hydragrad as hg
from hydragrad.errors import DataError
from hydragrad.recording.batch_of_one import naming_batch_of_one
from twins import loss, made, order, record, sgd, track, vectors

MESSAGE = r"BatchNorm needs at least two samples .* Set drop_last=True \(in hg\.train, or in the DataLoader\)"


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


def images() -> nn.Module:
    """Four values a channel and sample: one sample will do."""
    return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 3))


def train(path, build=batch_norm, length=9, **options):
    model = made(build)
    return hg.train(model, loss, vectors(length), sgd(model), epochs=2, batch_size=4, out=path, **options)


def test_a_last_batch_of_one_is_refused_before_training(tmp_path):
    with pytest.raises(DataError, match=MESSAGE):
        train(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_last_batch_of_one_is_left_out(tmp_path):
    run = train(tmp_path, drop_last=True)
    assert [len(record.indices) for record in run.steps] == [4, 4, 4, 4]


@pytest.mark.parametrize(("build", "length"), [(images, 9), (batch_norm, 10), (lambda: nn.Linear(4, 3), 9)])
def test_last_batches_that_can_be_computed_are_trained(tmp_path, build, length):
    assert len(train(tmp_path, build, length).steps) == 6


def test_a_batch_of_one_in_the_users_loop_is_named(tmp_path):
    with pytest.raises(DataError, match=MESSAGE):
        record(tmp_path, batch_norm, vectors(9), steps=order(9))
    with pytest.raises(DataError, match=MESSAGE):
        track(batch_norm, vectors(9))


def loop_over(path, batch_size, **options):
    model, data = made(batch_norm), vectors(9)
    optimizer, steps = sgd(model), 0
    with hg.Recorder(path, model, optimizer, loss, data) as recorder:
        for indices, batch in hg.indexed(DataLoader(data, batch_size=batch_size, **options)):
            with recorder.step(indices):
                optimizer.zero_grad()
                loss(model, batch).mean().backward()
                optimizer.step()
            steps += 1
    return steps


def test_a_loader_that_leaves_one_sample_is_refused_at_its_first_batch(tmp_path):
    with pytest.raises(DataError, match=MESSAGE):
        loop_over(tmp_path / "run", 4)
    assert not (tmp_path / "run").exists()
    assert loop_over(tmp_path / "dropped", 4, drop_last=True) == 2
    assert loop_over(tmp_path / "other", 5) == 2


@pytest.mark.parametrize(("size", "text"), [(2, "Expected more than 1 value per channel"), (1, "something else")])
def test_other_errors_are_left_alone(size, text):
    with pytest.raises(ValueError, match=text), naming_batch_of_one(size):
        raise ValueError(text)


def test_errors_of_the_loss_are_those_of_the_first_step(tmp_path):
    def failing(model, batch):
        raise RuntimeError("of the user's own")

    model = made(batch_norm)
    with pytest.raises(RuntimeError, match="of the user's own"):
        hg.train(model, failing, vectors(9), sgd(model), epochs=1, batch_size=4, out=tmp_path / "run")
    assert torch.is_grad_enabled()
