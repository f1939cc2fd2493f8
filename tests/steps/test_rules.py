"""The rules of torch's optimizers: reading their options, and refusing what has no derivative here."""

import json
from inspect import signature

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam, AdamW, Rprop, SparseAdam
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from hydragrad.errors import RecordingMismatch, Unsupported
from hydragrad.steps import RULES, read_group, rule_named, rule_of, torch_group
from hydragrad.steps.adam import AdamOptions
from hydragrad.steps.sgd import RULE, SGDOptions


def weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(2))]


def test_options_are_read_as_plain_values():
    optimizer = SGD(weights(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True, maximize=True, foreach=False)
    values = read_group(RULE, optimizer.param_groups[0])
    assert json.loads(json.dumps(values)) == values
    assert values["foreach"] is False and values["fused"] is None
    assert RULE.read(values) == SGDOptions(lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True, maximize=True)


def test_a_rate_may_be_a_tensor():
    optimizer = SGD(weights(), lr=torch.tensor(0.25))
    values = read_group(RULE, optimizer.param_groups[0])
    assert values["lr"] == ("tensor", "float32", 0.25) and RULE.read(values).lr == 0.25
    assert RULE.read(json.loads(json.dumps(values))).lr == 0.25
    rate = torch_group(values)["lr"]
    assert torch.equal(rate, torch.tensor(0.25)) and rate.dtype == torch.float32


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (type("MySGD", (SGD,), {}), r"differentiated\."),
        (Rprop, "the signs of gradients only"),
        (LBFGS, "searches along a line"),
        (SparseAdam, "sparse gradients"),
    ],
)
def test_other_optimizers_are_refused_by_name(other, reason):
    with pytest.raises(Unsupported, match=rf"{other.__name__} has no rule.*{reason}.*Adadelta, .*RMSprop or SGD"):
        rule_of(other(weights(), lr=0.1))


def test_unknown_options_are_refused_by_name():
    optimizer = SGD(weights(), lr=0.1)
    optimizer.defaults["trust"] = optimizer.param_groups[0]["trust"] = 0.1  # as a later torch may have it
    with pytest.raises(Unsupported, match=r"unknown options \['trust'\]"):
        rule_of(optimizer)


def test_what_a_user_notes_in_a_group_is_no_option():
    assert rule_of(SGD([{"params": weights(), "layer": 3, "lr_scale": 0.1}], lr=0.1)).torch_class is SGD


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
    rule_of(optimizer)


def test_named_parameters_are_known():
    rule_of(SGD(nn.Linear(2, 2).named_parameters(), lr=0.1))


def test_adams_options_are_read_as_plain_values():
    optimizer = AdamW(weights(), lr=0.1, betas=(0.8, 0.95), weight_decay=0.2, amsgrad=True)
    values = read_group(RULES[AdamW], optimizer.param_groups[0])
    assert values["betas"] == (0.8, 0.95)
    expected = AdamOptions(lr=0.1, betas=(0.8, 0.95), weight_decay=0.2, amsgrad=True, decoupled=True)
    assert RULES[AdamW].read(values) == expected
    # JSON has lists for tuples.
    assert RULES[AdamW].read(json.loads(json.dumps(values))) == expected


@pytest.mark.parametrize("kind", RULES)
def test_rules_are_named_by_their_class(kind):
    parameters = [nn.Parameter(torch.zeros(2, 2))]
    assert rule_of(kind(parameters, lr=0.1)) is rule_named(RULES[kind].name) is RULES[kind]


@pytest.mark.skipif("decoupled_weight_decay" not in signature(Adam).parameters, reason="Adam has it from torch 2.7 on")
def test_adams_own_option_of_decoupled_decay_is_read():
    optimizer = Adam(weights(), weight_decay=0.1, decoupled_weight_decay=True)
    assert RULES[Adam].read(read_group(RULES[Adam], optimizer.param_groups[0])).decoupled


def test_an_unknown_class_of_a_manifest_is_refused_by_name():
    with pytest.raises(RecordingMismatch, match=r"recorded with the optimizer mine\.Own"):
        rule_named("mine.Own")
    with pytest.raises(RecordingMismatch, match="which this version of hydragrad does not know"):
        rule_named("torch.optim.later.Later")
