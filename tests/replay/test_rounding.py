"""Followers: what rounding does to a run is measured, kinks are taken on the record's side, and faults are not."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.replay.differences import relative
from hydragrad.replay.rounding import (
    PLAIN_ROUNDINGS,
    SAFETY,
    TF32,
    Followers,
    state_after,
    unit_of_rounding,
)
from hydragrad.replay.trajectory import Trajectory

EPS = torch.finfo(torch.float32).eps


def loss(model, batch):
    return (model(batch[0]).squeeze(1) - batch[1]).square()


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 2, generator=generator)
    x[:3] = torch.tensor([1.0, 1.0])  # at the kink, where the weights are 1 and -1
    return TensorDataset(x, torch.randn(30, generator=generator))


def on_the_kink(by=0.0):
    """A unit whose input is 0 for the first samples, moved by a relative amount."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        model[0].weight[0] = torch.tensor([1.0 + by, -1.0])
        model[0].bias.zero_()
    return model


def recorded(path, model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with hg.Recorder(path, model, optimizer, loss, data()) as recorder:
        for step in range(10):
            indices = torch.arange(3 * step, 3 * step + 3)
            with recorder.step(indices):
                optimizer.zero_grad()
                loss(model, data()[indices]).mean().backward()
                optimizer.step()
    return hg.Recording(path, model, loss, data())


@pytest.fixture
def run(tmp_path):
    return recorded(tmp_path / "run", on_the_kink())


def followers_of(run):
    return Followers(run, lambda: Trajectory(run.model, run.loss, run.rules), EPS)


def replayed(run):
    """States of a replay, by step."""
    with run.replay() as replay:
        replay.trajectory.restore(run.initial)
        for record in run.steps:
            replay.trajectory.advance(record, run.batches(record))
            yield state_after(replay.trajectory, record)


def shares(run, states):
    """How far the followers are from the record, as a share of what is explained, by step."""
    followers = followers_of(run)
    for record, state in zip(run.steps, states, strict=True):
        apart, explained = followers.at_step(0, record.step, state)
        yield apart.state / explained.state


def test_a_rounding_that_takes_the_other_side_of_a_kink_is_explained(run, tmp_path):
    states = list(replayed(run))
    other = recorded(tmp_path / "other", on_the_kink(by=2 * EPS))
    assert relative(states[0], other.steps[0].state) > PLAIN_ROUNDINGS * EPS  # else there is nothing to explain
    run.steps = other.steps
    assert max(shares(run, states)) < 1 / 2


def test_a_jump_that_no_rounding_makes_is_not(run):
    states = list(replayed(run))
    run.steps[4] = dataclasses.replace(run.steps[4], state=run.steps[4].state * 1.01)
    found = list(shares(run, states))
    assert max(found[:4]) == 0.0
    assert found[4] > SAFETY


def test_what_was_measured_of_earlier_steps_is_kept(run):
    states = list(replayed(run))
    followers = followers_of(run)
    later = followers.at_step(0, 6, states[6])
    assert followers.at_step(0, 2, states[2]).apart.state == 0.0
    assert followers.at_step(0, 6, states[6]) == later


def test_followers_start_again_at_another_checkpoint(run):
    states = list(replayed(run))
    followers = followers_of(run)
    followers.at_step(0, 6, states[6])
    apart, explained = followers.at_checkpoint(len(run.steps), run.final)
    assert set(apart) == {"weights", "buffers", "the optimizer's momentum_buffer"}
    assert max(apart.values()) == 0.0 < min(explained.values())


def test_measuring_draws_from_no_generator(run):
    states = list(replayed(run))
    before = torch.get_rng_state()
    followers_of(run).at_step(0, 6, states[6])
    assert torch.equal(torch.get_rng_state(), before)


# --- units


@pytest.mark.parametrize(
    ("dtypes", "machine", "unit"),
    [
        ([torch.float32], {"device": "cpu"}, EPS),
        ([torch.float64], {"device": "cpu"}, 2.0**-52),
        ([torch.float64, torch.float32], {"device": "cpu"}, EPS),
        ([torch.float32, torch.int64], {"device": "H100", "backend": {"cudnn tf32": True}}, TF32),
        ([torch.float32], {"device": "H100", "backend": {"cudnn tf32": False, "matmul tf32": False}}, EPS),
        ([torch.float64], {"device": "H100", "backend": {"cudnn tf32": True}}, 2.0**-52),
        ([torch.bfloat16], {"device": "cpu"}, 2.0**-7),
        ([], {"device": "cpu"}, 2.0**-52),
    ],
)
def test_the_coarsest_type_and_machine_give_the_unit(dtypes, machine, unit):
    here = {"device": "cpu", "backend": {}}
    assert unit_of_rounding([torch.ones(1, dtype=dtype) for dtype in dtypes], [machine, here]) == unit
