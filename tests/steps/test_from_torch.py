"""Reading torch's optimizers, and refusing what has no derivative here."""

import json

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Rprop
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from hydragrad.errors import Unsupported
from hydragrad.steps import SGDOptions, read_group, require_supported, sgd_options


def weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(2))]


def test_options_are_read_as_plain_values():
    optimizer = SGD(weights(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True, maximize=True, foreach=False)
    values = read_group(optimizer.param_groups[0])
    assert json.loads(json.dumps(values)) == values
    assert values["foreach"] is False and values["fused"] is None
    assert sgd_options(values) == SGDOptions(lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True, maximize=True)


def test_a_rate_may_be_a_tensor():
    optimizer = SGD(weights(), lr=torch.tensor(0.25))
    assert read_group(optimizer.param_groups[0])["lr"] == 0.25


@pytest.mark.parametrize("other", [AdamW, Rprop, type("MySGD", (SGD,), {})])
def test_other_optimizers_are_refused_by_name(other):
    with pytest.raises(Unsupported, match=rf"torch.optim.SGD only.*{other.__name__}"):
        require_supported(other(weights(), lr=0.1))


def test_unknown_options_are_refused_by_name():
    with pytest.raises(Unsupported, match=r"unknown options \['trust'\]"):
        require_supported(SGD([{"params": weights(), "trust": 0.1}], lr=0.1))


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: OneCycleLR(o, max_lr=1.0, total_steps=10),
        lambda o: CyclicLR(o, base_lr=0.1, max_lr=1.0),
        lambda o: None,
    ],
)
def test_groups_with_a_schedulers_notes_are_known(schedule):
    optimizer = SGD([{"params": weights(), "name": "all of them"}], lr=0.1, momentum=0.9)
    schedule(optimizer)
    require_supported(optimizer)


def test_named_parameters_are_known():
    require_supported(SGD(nn.Linear(2, 2).named_parameters(), lr=0.1))
