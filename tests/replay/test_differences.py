"""Distances of numbers and of checkpoints."""

import torch

from hydragrad.replay.differences import parts_of, relative, relative_differences
from hydragrad.runs.checkpoints import Checkpoint


def test_a_difference_is_0_only_between_equals():
    assert relative(2.0, 2.0) == relative(float("nan"), float("nan")) == 0.0
    assert relative(2.0, 1.0) == 1.0
    assert relative(1.0, 0.0) > 1e290
    assert not relative(float("nan"), 1.0) <= 1e300


def test_parts_of_a_checkpoint_are_apart_by_themselves():
    def checkpoint(weight, momentum, step):
        state = {"w": {"momentum": torch.tensor([momentum]), "step": torch.tensor(step)}}
        return Checkpoint(0, {"w": torch.tensor([weight])}, {"count": torch.tensor(3)}, state)

    first, second = parts_of(checkpoint(1.0, 2.0, 7.0)), parts_of(checkpoint(1.5, 2.0, 9.0))
    apart = {"weights": 0.5, "buffers": 0.0, "the optimizer's momentum": 0.0}
    assert relative_differences(second, first) == apart
    del second["the optimizer's momentum"]
    assert relative_differences(second, first)["the optimizer's momentum"] == float("inf")
