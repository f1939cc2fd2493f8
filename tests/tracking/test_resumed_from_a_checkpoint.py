"""A tracker that is resumed in a loop which went back to a checkpoint of its own."""

import copy

import pytest
import torch

import hydragrad as hg
from cases import SEED, Case, collate

STEPS, AT, STOP = 8, 4, 6


class Stop(Exception):
    pass


def loop(case, model, optimizer, tracker, start, stop, saved=None):
    for number in range(start, STEPS):
        if number == AT and saved is not None:
            saved.update(copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()}))
        if number == stop:
            raise Stop
        indices = [(5 * number + i) % 18 for i in range(5)]
        with tracker.step(indices):
            optimizer.zero_grad()
            case.loss(model, collate(case.train_set, indices)).mean().backward()
            optimizer.step()


@pytest.mark.parametrize("options", ["momentum", "adamw", "rmsprop"])
def test_rows_are_those_of_a_loop_that_never_stopped(tmp_path, options):
    case, saved = Case("mlp", options), {}
    query = hg.mean_loss(case.held_out)

    def tracker(model, optimizer, name, **more):
        return hg.Tracker(
            model, optimizer, case.loss, case.train_set, store=tmp_path / name, seed=SEED, smoothing=0, **more
        )

    model = case.build()
    optimizer = case.options.optimizer(model)
    with pytest.raises(Stop), tracker(model, optimizer, "stopped") as stopped:
        loop(case, model, optimizer, stopped, 0, STOP, saved)
    model = case.build()
    optimizer = case.options.optimizer(model)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    with tracker(model, optimizer, "stopped", resume=True) as resumed:
        loop(case, model, optimizer, resumed, AT, None)
    other = case.build()
    optimizer = case.options.optimizer(other)
    with tracker(other, optimizer, "straight") as straight:
        loop(case, other, optimizer, straight, 0, None)
    ours, theirs = (each.contributions(query).values for each in (resumed, straight))
    assert torch.equal(ours, theirs) and ours.abs().max() > 0
