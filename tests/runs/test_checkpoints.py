import contextlib
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn
from torch.optim import ASGD, Adam, NAdam

from hydragrad.errors import RecordingMismatch, RunDamaged
from hydragrad.randomness import every_generator_state
from hydragrad.runs.checkpoints import Checkpoint, CheckpointFolder, put_into, resume_from, snapshot
from hydragrad.runs.lines import AppendOnlyLines
from recording.toys import build_batch_norm, loss, same_weights, samples, sgd


def trained(steps=2, **options):
    model = build_batch_norm()
    optimizer = sgd(model, **options)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, samples()[:6]).mean().backward()
        optimizer.step()
    return model, optimizer


def write(path, checkpoint):
    folder = CheckpointFolder(path)
    with contextlib.closing(AppendOnlyLines(folder.index)) as index:
        folder.write(checkpoint, index)
    return folder


def equal(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return one == other


def test_a_state_comes_back_to_the_bit(tmp_path):
    model, optimizer = trained()
    model[0].bias.requires_grad_(False)
    model[1].eval()
    given = snapshot(
        7,
        model,
        optimizer,
        generators=every_generator_state(),
        sampler={"position": 3, "loader": torch.Generator().get_state()},
        scheduler={"milestones": {3: 1}, "best": float("inf"), "rates": (0.1, 1e-300)},
    )
    folder = write(tmp_path, given)
    read = folder.read(7, folder.entries()[7])
    assert all(equal(vars(read)[name], value) for name, value in vars(given).items())


@given(
    st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool]),
    st.lists(st.integers(0, 3), max_size=3),
    st.text(min_size=1).filter(lambda name: name.isprintable()),
)
def test_tensors_of_any_shape_and_name_come_back(tmp_path_factory, dtype, shape, name):
    value = torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)
    turned = value.permute(tuple(reversed(range(value.dim())))).clone()  # as it lies in memory, but its own
    state = {name: {"exp_avg": turned, "step": 3.0}}
    folder = write(tmp_path_factory.mktemp("run"), Checkpoint(0, {name: value}, {}, state))
    read = folder.read(0, folder.entries()[0])
    assert equal(read.parameters, {name: value})
    assert equal(read.optimizer, state)


def test_a_snapshot_is_a_copy():
    model, optimizer = trained()
    taken = snapshot(0, model, optimizer)
    before = taken.parameters["0.weight"].clone(), taken.optimizer["0.weight"]["momentum_buffer"].clone()
    loss(model, samples()[:6]).mean().backward()
    optimizer.step()
    assert torch.equal(taken.parameters["0.weight"], before[0])
    assert torch.equal(taken.optimizer["0.weight"]["momentum_buffer"], before[1])
    assert not torch.equal(taken.parameters["0.weight"], model[0].weight)


def test_the_next_step_is_the_same_from_a_checkpoint():
    model, optimizer = trained()
    taken = snapshot(0, model, optimizer)
    other, elsewhere = trained(steps=5)
    put_into(taken, other, elsewhere)
    assert same_weights(model, other)
    for one, its in ((model, optimizer), (other, elsewhere)):
        torch.manual_seed(1)
        its.zero_grad()
        loss(one, samples()[:6]).mean().backward()
        its.step()
    assert same_weights(model, other)


class Temperature(nn.Module):
    """A parameter that is one number."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), device=device))


@pytest.mark.parametrize(
    ("kind", "with_the_parameter"),
    [(Adam, {"exp_avg", "exp_avg_sq"}), (NAdam, {"exp_avg", "exp_avg_sq"}), (ASGD, {"ax", "eta", "mu", "step"})],
)
def test_states_of_a_number_lie_with_it_and_counts_where_torch_has_them(kind, with_the_parameter):
    model = Temperature("cpu")
    optimizer = kind(model.parameters(), lr=0.1)
    model.scale.grad = torch.ones(())
    optimizer.step()
    elsewhere = Temperature("meta")
    made = kind(elsewhere.parameters(), lr=0.1)
    put_into(snapshot(1, model, optimizer), elsewhere, made)
    devices = {name: value.device.type for name, value in made.state[elsewhere.scale].items()}
    assert {name for name, device in devices.items() if device == "meta"} == with_the_parameter


def test_momentum_that_was_not_there_is_taken_away():
    model, optimizer = trained(steps=0)
    taken = snapshot(0, model, optimizer)
    assert taken.optimizer == {}
    other, elsewhere = trained()
    put_into(taken, other, elsewhere)
    assert not elsewhere.state
    assert all(parameter.grad is None for parameter in other.parameters())


def test_the_users_objects_get_options_modes_and_what_is_frozen():
    model, optimizer = trained(weight_decay=0.1)
    model[0].bias.requires_grad_(False)
    model[1].eval()
    taken = snapshot(0, model, optimizer)
    other, elsewhere = trained(lr=torch.tensor(3.0), momentum=0.0)
    other.eval()
    resume_from(taken, other, elsewhere)
    assert elsewhere.param_groups[0]["lr"].item() == pytest.approx(0.1)
    assert {name: elsewhere.param_groups[0][name] for name in ("momentum", "weight_decay")} == {
        "momentum": 0.8,
        "weight_decay": 0.1,
    }
    assert [m.training for m in other.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in model.parameters()]


def test_another_number_of_groups_is_refused():
    model, optimizer = trained()
    taken = snapshot(4, model, optimizer)
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    with pytest.raises(RecordingMismatch, match="had 1 parameter groups before step 4; this optimizer has 2"):
        resume_from(taken, model, optimizer)


def test_a_damaged_or_missing_file_is_named(tmp_path):
    folder = write(tmp_path, snapshot(3, *trained()))
    digest = folder.entries()[3]
    content = bytearray(folder.path(3).read_bytes())
    content[len(content) // 2] ^= 1
    folder.path(3).write_bytes(content)
    with pytest.raises(RunDamaged, match=r"step-00000003.safetensors is not the file that was written .its digest"):
        folder.read(3, digest)
    folder.path(3).unlink()
    with pytest.raises(RunDamaged, match=r"step-00000003.safetensors is missing"):
        folder.read(3, digest)


def test_it_can_be_read_without_us(tmp_path):
    model, optimizer = trained()
    folder = write(tmp_path, snapshot(3, model, optimizer))
    with safe_open(folder.path(3), framework="pt") as file:
        assert torch.equal(file.get_tensor("parameters/0.weight"), model[0].weight)
        assert json.loads(file.metadata()["state"])["groups"]


def test_frozen_parameters_are_written_once(tmp_path):
    model, optimizer = trained()
    model[0].weight.requires_grad_(False)
    folder = CheckpointFolder(tmp_path)
    index = AppendOnlyLines(folder.index)
    for step in (0, 3, 6):
        if step == 6:  # somebody loads other frozen weights
            model[0].weight.data.add_(1)
        taken = snapshot(step, model, optimizer)
        folder.write(taken, index)
        read = CheckpointFolder(tmp_path).read(step, folder.entries()[step])
        assert equal(read.parameters, taken.parameters)
    index.close()
    held = []
    for step in (0, 3, 6):
        with safe_open(folder.path(step), framework="pt") as file:
            held.append("parameters/0.weight" in file.keys())  # noqa: SIM118 - not a dict
    assert held == [True, False, True]


def test_a_frozen_parameter_whose_file_is_damaged_is_named(tmp_path):
    model, optimizer = trained()
    model.requires_grad_(False)
    folder = CheckpointFolder(tmp_path)
    index = AppendOnlyLines(folder.index)
    for step in (0, 3):
        folder.write(snapshot(step, model, optimizer), index)
    index.close()
    content = bytearray(folder.path(0).read_bytes())
    content[-1] ^= 1
    folder.path(0).write_bytes(content)
    with pytest.raises(RunDamaged, match=r"step-00000000.safetensors holds another .* than was written"):
        CheckpointFolder(tmp_path).read(3, folder.entries()[3])
    folder.path(0).unlink()
    with pytest.raises(RunDamaged, match=r"step-00000000.safetensors can't be read"):
        CheckpointFolder(tmp_path).read(3, folder.entries()[3])
