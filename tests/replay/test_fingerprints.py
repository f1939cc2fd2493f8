"""Fingerprints change with anything that they speak of, and with nothing else."""

import pytest
import torch
from torch import nn

from hydragrad.replay.fingerprints import WHOLE_BYTES, batch_digest, same_batch, state_number, state_of


def trained(kind=torch.optim.Adam, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    optimizer = kind(model.parameters(), lr=0.1, **options)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def number(model, optimizer):
    return state_number(state_of(model, [optimizer]))


def change_last_weight(model, optimizer):
    model[2].bias.data[-1] += 1e-5


def change_running_mean(model, optimizer):
    model[1].running_mean[0] += 1e-5


def change_a_moment(model, optimizer):
    optimizer.state[model[0].weight]["exp_avg_sq"][0, 0] += 1e-5


def count_a_step(model, optimizer):
    optimizer.state[model[2].bias]["step"] += 1


def swap_two_tensors(model, optimizer):
    first = model[0].weight.data.clone()
    model[0].weight.data.copy_(model[2].weight.data)
    model[2].weight.data.copy_(first)


@pytest.mark.parametrize(
    "change", [change_last_weight, change_running_mean, change_a_moment, count_a_step, swap_two_tensors]
)
def test_every_part_of_the_state_is_in_the_number(change):
    model, optimizer = trained()
    before = number(model, optimizer)
    assert number(model, optimizer) == before
    change(model, optimizer)
    assert number(model, optimizer) != before


def test_cleared_momentum_is_in_the_number():
    model, optimizer = trained(torch.optim.SGD, momentum=0.9)
    before = number(model, optimizer)
    optimizer.state.clear()
    assert number(model, optimizer) != before


def test_nan_anywhere_makes_the_number_nan():
    model, optimizer = trained()
    model[2].bias.data[0] = torch.nan
    assert number(model, optimizer) != number(model, optimizer)


def test_nothing_has_the_number_0():
    assert state_number([]) == 0.0 == state_number([torch.arange(3)])


def test_a_batch_is_told_from_others_by_values_types_and_shapes():
    batch = {"x": torch.arange(6.0).reshape(2, 3), "y": [torch.tensor([1, 2])], "name": "a"}
    digest = batch_digest(batch)
    assert digest == batch_digest({"x": batch["x"].clone(), "y": (batch["y"][0].clone(),), "name": "b"})
    for other in (batch["x"].reshape(3, 2), batch["x"].double(), batch["x"] + torch.eye(2, 3)):
        assert batch_digest(batch | {"x": other}) != digest
    assert batch_digest(batch | {"y": [torch.tensor([1, 3])]}) != digest


def test_of_a_large_batch_a_sample_is_digested():
    large = torch.zeros(WHOLE_BYTES)  # four bytes a number
    digest = batch_digest(large)
    large[8] = 1.0
    assert batch_digest(large) != digest


def test_transposed_and_unaligned_tensors_are_digested_by_value():
    x = torch.randn(4, 3)
    assert batch_digest(x.T) == batch_digest(x.T.contiguous())


def test_labels_and_shapes_are_compared_where_numbers_may_be_rounded():
    x, y = torch.randn(4, 3), torch.arange(4)
    batch = batch_digest([x, y])
    assert same_batch(batch, batch_digest([x.clone(), y.clone()]))
    rounded = batch_digest([x * (1 + 2**-20), y])
    assert not same_batch(batch, rounded)
    assert same_batch(batch, rounded, rounded=True)
    for other in ([x, y + 1], [x[:, :2], y], [x.double(), y], [x, y, 1]):
        assert not same_batch(batch, batch_digest(other), rounded=True)


def test_digests_without_that_of_integers_are_compared_whole():
    x = torch.randn(4, 3)
    earlier = batch_digest([x]) & 0xFFFFFFFF
    assert same_batch(earlier, batch_digest([x]))
    assert not same_batch(earlier, batch_digest([2 * x]), rounded=True)
