"""A state is held to the model: names, shapes, types, ties, finite numbers."""

import pytest
import torch
from torch import nn

from hydragrad.errors import CheckpointError, NonFinite
from hydragrad.trained_elsewhere.fitting import Slots
from trained_elsewhere.states import copied, network


def state_of(model):
    return copied(model.state_dict())


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


@pytest.mark.parametrize("prefix", ["model.", "module.", "_orig_mod.", "module._orig_mod.", "net.0."])
def test_a_prefix_of_all_names_is_left_out(prefix):
    state = state_of(network())
    fitted = Slots(network()).fit({prefix + name: value for name, value in state.items()}, "here")
    assert list(fitted) == list(state) and all(torch.equal(fitted[name], state[name]) for name in state)


def test_what_is_missing_and_unexpected_is_named():
    state = {f"model.{name}": value for name, value in without(state_of(network()), "1.running_var").items()}
    with pytest.raises(
        CheckpointError,
        match=r"epoch.pt must hold the model's 9 parameters and buffers.*without the prefix 'model.', are missing: "
        r"1.running_var; unexpected: head.weight",
    ):
        Slots(network()).fit({**state, "model.head.weight": torch.ones(2)}, "epoch.pt")
    many = {f"layer{i}.weight": torch.ones(1) for i in range(9)}
    with pytest.raises(CheckpointError, match=r"layer5.weight and 3 more"):
        Slots(network()).fit(many, "epoch.pt")
    with pytest.raises(CheckpointError, match=r"missing: none; unexpected: loss.weight"):
        Slots(network()).fit({**state_of(network()), "loss.weight": torch.ones(2)}, "epoch.pt")


def test_other_shapes_and_types_are_named():
    state = state_of(network())
    slots = Slots(network())
    with pytest.raises(CheckpointError, match=r"0.bias has shape \(5,\) in the model and \(4,\) in x"):
        slots.fit({**state, "0.bias": torch.zeros(4, dtype=torch.float64)}, "x")
    with pytest.raises(CheckpointError, match=r"0.bias is torch.int64 in x, which torch.float64"):
        slots.fit({**state, "0.bias": torch.zeros(5, dtype=torch.int64)}, "x")
    with pytest.raises(CheckpointError, match=r"0.bias of x is a tensor without values, sparse or quantised"):
        slots.fit({**state, "0.bias": torch.zeros(5, dtype=torch.float64).to_sparse()}, "x")
    with pytest.raises(CheckpointError, match=r"0.bias of x is a tensor without values"):
        slots.fit({**state, "0.bias": torch.zeros(5, dtype=torch.float64, device="meta")}, "x")
    with pytest.raises(CheckpointError, match=r"0.bias is torch.float8_e4m3fn in x"):
        slots.fit({**state, "0.bias": torch.zeros(5).to(torch.float8_e4m3fn)}, "x")
    with pytest.raises(CheckpointError, match=r"torch.float64 in x, which torch.float32 of the model can't hold"):
        Slots(network().float()).fit(state, "x")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_shorter_numbers_are_converted_unchanged(dtype):
    state = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in state_of(network()).items()
    }
    fitted = Slots(network()).fit(state, "x")
    assert {value.dtype for value in fitted.values()} == {torch.float64, torch.int64}
    assert all(torch.equal(fitted[name].to(dtype), state[name]) for name in state if state[name].is_floating_point())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    state = state_of(network())
    state["1.running_mean"][2] = value
    with pytest.raises(NonFinite, match=r"1.running_mean of last.pt holds NaN or infinity"):
        Slots(network()).fit(state, "last.pt")


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mask", torch.ones(2), persistent=False)


@pytest.mark.parametrize("left_out", [(), ("head.weight",), ("embed.weight",)])
def test_a_tied_weight_may_be_saved_under_any_of_its_names(left_out):
    state = without(state_of(Tied()), *left_out)
    assert "mask" not in state
    fitted = Slots(Tied()).fit(state, "x")
    assert list(fitted) == ["embed.weight"] and torch.equal(fitted["embed.weight"], next(iter(state.values())))


def test_weights_that_are_tied_in_the_model_alone_are_refused():
    state = {"embed.weight": torch.zeros(5, 3), "head.weight": torch.ones(5, 3)}
    with pytest.raises(
        CheckpointError, match=r"embed.weight and head.weight are one tensor in the model; in x they differ"
    ):
        Slots(Tied()).fit(state, "x")
