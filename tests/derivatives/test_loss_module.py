"""The private copy of model and loss."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from case_models import cross_entropy_loss
from hydragrad.derivatives import Batch, LossModule, check_losses
from hydragrad.errors import LossError
from hydragrad.randomness import preserved

X, Y = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0])


def batch(seed: int = 0) -> Batch:
    return Batch((X, Y), 4, seed)


def test_it_evaluates_anywhere_and_changes_nothing():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    problem = LossModule(model, cross_entropy_loss)
    parameters = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    with preserved():
        first, after = problem.at(parameters, buffers, batch(3))
        again, _ = problem.at(parameters, buffers, batch(3))
        other, _ = problem.at(parameters, buffers, batch(4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert after["1.num_batches_tracked"] == 1 and not torch.equal(after["1.running_mean"], buffers["1.running_mean"])
    assert buffers["1.num_batches_tracked"] == 0
    for state in (model.state_dict(), problem.model.state_dict()):
        assert all(torch.equal(value, before[key]) for key, value in state.items())


@pytest.mark.parametrize(
    ("losses", "came"),
    [
        (torch.zeros(()), r"a torch.float32 tensor of shape \(\)"),
        (torch.zeros(4, 1), r"shape \(4, 1\)"),
        (torch.zeros(3), r"shape \(3,\)"),
        (torch.zeros(4, dtype=torch.int64), "torch.int64"),
        (1.0, "float"),
        (None, "NoneType"),
    ],
)
def test_losses_that_are_not_one_number_a_sample(losses, came):
    with pytest.raises(LossError, match=rf"shape \(4,\); it returned .*{came}.*reduction='none'"):
        check_losses(losses, 4)


def test_losses_are_checked_wherever_they_are_evaluated():
    problem = LossModule(nn.Linear(3, 2), lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]))
    with pytest.raises(LossError, match="one number a sample"), preserved():
        problem(batch())
