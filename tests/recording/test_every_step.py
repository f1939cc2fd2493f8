"""What moves weights, states, gradients or settings unseen is named at the step where it first happens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

import hydragrad as hg
from hydragrad.errors import RecordingMismatch, ReplayMismatch, StepError
from recording.toys import build, build_batch_norm, loss, samples, sgd

LATE = 6
"""Neither the first step nor one that is replayed while recording."""

Edit = Callable[[nn.Module, Optimizer], object]


def watched(owner: str, path: Path, model: nn.Module, optimizer: Optimizer) -> Any:
    if owner == "recorder":
        return hg.Recorder(path, model, optimizer, loss, samples())
    return hg.Tracker(model, optimizer, loss, samples())


def train(
    watcher: Any,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    before: Edit = lambda *_: None,
    edit: Edit = lambda *_: None,
    after: Edit = lambda *_: None,
    between: Edit = lambda *_: None,
    steps: int = LATE + 2,
) -> None:
    """Eight steps; the edits are made at step LATE only: before backward(), before and after the update, and after."""
    for number in range(steps):
        late = number == LATE
        indices = [(5 * number + i) % 22 for i in range(5)]
        with watcher.step(indices):
            optimizer.zero_grad()
            if late:
                before(model, optimizer)
            loss(model, samples()[indices]).mean().backward()
            if late:
                edit(model, optimizer)
            optimizer.step()
            if late:
                after(model, optimizer)
        if late:
            between(model, optimizer)


def clip(model: nn.Module, _: Optimizer) -> None:
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm()
    for parameter in model.parameters():
        parameter.grad.mul_(1e-2 / norm)


def clip_through_data(model: nn.Module, _: Optimizer) -> None:
    for parameter in model.parameters():
        parameter.grad.data.mul_(0.7)


def clip_values(model: nn.Module, _: Optimizer) -> None:
    for parameter in model.parameters():
        parameter.grad.clamp_(-1e-3, 1e-3)


def noise(model: nn.Module, _: Optimizer) -> None:
    for parameter in model.parameters():
        parameter.grad = parameter.grad + 10 * torch.randn_like(parameter)


def one_parameter_scaled(model: nn.Module, _: Optimizer) -> None:
    model[0].weight.grad.mul_(0.5)


GRADIENTS: dict[str, tuple[Edit, str]] = {
    "clip": (clip, r"step 6 .* scaled by 0\.\d+: clipping by norm"),
    "data": (clip_through_data, r"step 6 .* scaled by 0.7.*clipping"),
    "values": (clip_values, r"limited to values within 0.001: clipping by value"),
    "noise": (noise, r"noise was added, or they were edited"),
    "one": (one_parameter_scaled, r"single parameters were scaled or set to 0"),
}


@pytest.mark.parametrize("owner", ["recorder", "tracker"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_that_change_late_between_backward_and_step_are_named(tmp_path: Path, owner: str, name: str) -> None:
    edit, message = GRADIENTS[name]
    model = build()
    optimizer = sgd(model)
    with (
        pytest.raises(ReplayMismatch, match=message),
        watched(owner, tmp_path / "run", model, optimizer) as watcher,
    ):
        train(watcher, model, optimizer, edit=edit)


@pytest.mark.parametrize("owner", ["recorder", "tracker"])
def test_a_second_backward_pass_in_a_block_is_named(tmp_path: Path, owner: str) -> None:
    model = build()
    optimizer = sgd(model)

    def fill(model: nn.Module, _: Optimizer) -> None:
        loss(model, samples()[:5]).mean().backward()

    with (
        pytest.raises(StepError, match=r"holds one backward pass; a second one began at step 6"),
        watched(owner, tmp_path / "run", model, optimizer) as watcher,
    ):
        train(watcher, model, optimizer, before=fill)


@pytest.mark.parametrize("owner", ["recorder", "tracker"])
def test_gradients_that_are_not_cleared_are_named(tmp_path: Path, owner: str) -> None:
    model = build()
    optimizer = sgd(model)
    watcher = watched(owner, tmp_path / "run", model, optimizer)
    with pytest.raises(ReplayMismatch, match=r"step 1 .* added to gradients that were there before"), watcher:
        for _ in range(2):
            with watcher.step(range(5)):
                loss(model, samples()[:5]).mean().backward()
                optimizer.step()


def test_clipping_that_never_acts_is_accepted(tmp_path: Path) -> None:
    model = build()
    optimizer = sgd(model)
    with hg.Recorder(tmp_path, model, optimizer, loss, samples()) as recorder:
        train(recorder, model, optimizer, edit=lambda m, _: nn.utils.clip_grad_norm_(m.parameters(), 1e6))
    run = hg.Recording(tmp_path, build(), loss, samples())
    assert len(hg.attribute(run, hg.mean_loss(samples())).sample_ids) == 22


@torch.no_grad()
def clamp(model: nn.Module, _: Optimizer) -> None:
    for parameter in model.parameters():
        parameter.clamp_(-0.1, 0.1)


def clamp_through_data(model: nn.Module, _: Optimizer) -> None:
    for parameter in model.parameters():
        parameter.data.clamp_(-0.1, 0.1)


def reset_statistics(model: nn.Module, _: Optimizer) -> None:
    model[1].running_mean.data.zero_()


def clear(_: nn.Module, optimizer: Optimizer) -> None:
    optimizer.state.clear()


def scale_last_through_data(model: nn.Module, _: Optimizer) -> None:
    model[-1].weight.data.mul_(0.8)


def other_momentum(model: nn.Module, _: Optimizer) -> None:
    model[1].momentum = 0.4


MOVED: dict[str, tuple[str, Edit, str]] = {
    "clamped in the block": ("after", clamp, r"At step 6 0.weight did: weights limited"),
    "clamped through data": ("after", clamp_through_data, r"Through .data they changed outside .* before step 7"),
    "clamped before the step": ("before", clamp, r"0.weight changed inside .* before the optimizer made step 6"),
    "moved before the step": (
        "before",
        scale_last_through_data,
        r"Through .data they changed .* before step 6, or in it before the optimizer stepped",
    ),
    "forward after the step": ("after", lambda m, _: m(samples().tensors[0]), r"At step 6 a buffer did"),
    "cleared in the block": ("after", clear, r"At step 6 the optimizer's state did"),
    "statistics reset": ("between", reset_statistics, r"changed outside .* before step 7"),
    "last layer": ("between", scale_last_through_data, r"Through .data they changed outside .* before step 7"),
    "setting between": ("between", other_momentum, r"at step 7 momentum of 1 was 0.1 and is 0.4"),
    "setting inside": ("before", other_momentum, r"at step 6 momentum of 1 was 0.1 and is 0.4"),
}


@pytest.mark.parametrize("owner", ["recorder", "tracker"])
@pytest.mark.parametrize("name", MOVED)
def test_a_model_that_something_else_moves_late_is_refused_at_that_step(tmp_path: Path, owner: str, name: str) -> None:
    when, edit, message = MOVED[name]
    model = build_batch_norm()
    optimizer = sgd(model)
    with (
        pytest.raises(StepError, match=message),
        watched(owner, tmp_path / "run", model, optimizer) as watcher,
    ):
        train(watcher, model, optimizer, **{when: edit})


def test_a_second_optimizer_is_named(tmp_path: Path) -> None:
    model = build()
    optimizer, other = SGD(model[0].parameters(), lr=0.1), SGD(model[3].parameters(), lr=0.1)
    with (
        pytest.raises(StepError, match=r"At step 6 3.weight did: .*a second optimizer"),
        hg.Recorder(tmp_path, model, optimizer, loss, samples()) as recorder,
    ):
        train(recorder, model, optimizer, after=lambda *_: other.step())


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_an_optimizer_whose_step_is_changed_late_is_named(tmp_path: Path, kind: type[Optimizer]) -> None:
    model = build()
    optimizer = kind(model.parameters(), lr=0.1)

    @torch.no_grad()
    def further(*_: Any) -> None:
        for parameter in model.parameters():
            parameter.mul_(0.99)

    # Registered before the recorder's own, so that it acts inside of the step.
    steps: list[int] = []
    optimizer.register_step_post_hook(lambda *_: (steps.append(0), further() if len(steps) == LATE + 1 else None)[1])
    with (
        pytest.raises(ReplayMismatch, match=rf"plain step of {kind.__name__} .*At step 6"),
        hg.Recorder(tmp_path, model, optimizer, loss, samples()) as recorder,
    ):
        train(recorder, model, optimizer)


@pytest.mark.parametrize("owner", ["recorder", "tracker"])
def test_a_model_that_is_changed_after_the_last_step_is_refused(tmp_path: Path, owner: str) -> None:
    model = build_batch_norm()
    optimizer = sgd(model)
    with (
        pytest.raises(StepError, match=r"must end as its last step left it. After step 6 it changed"),
        watched(owner, tmp_path / "run", model, optimizer) as watcher,
    ):
        train(watcher, model, optimizer, steps=LATE + 1)
        model(samples().tensors[0])
    if owner == "recorder":
        run = hg.Recording(tmp_path / "run", build_batch_norm(), loss, samples())
        assert run.completed and len(run.steps) == LATE + 1
        moved, end = dict(model.named_buffers()), run.final.buffers
        assert not torch.equal(moved["1.running_mean"], end["1.running_mean"])


def test_a_block_that_fails_leaves_the_next_step_as_checked_as_before(tmp_path: Path) -> None:
    model = build()
    optimizer = sgd(model)
    with hg.Recorder(tmp_path, model, optimizer, loss, samples(), reduction="sum") as recorder:
        with pytest.raises(RuntimeError, match="out of memory"), recorder.step([0, 1]):
            raise RuntimeError("out of memory")
        with pytest.raises(ReplayMismatch, match="Step 0 can't be replayed"):
            train(recorder, model, optimizer, steps=1)


def test_settings_that_a_model_moves_itself_are_left_alone(tmp_path: Path) -> None:
    class Counting(nn.Sequential):
        calls = 0

        def __init__(self, *modules: nn.Module) -> None:
            super().__init__(*modules)
            self.counted = 0

        def forward(self, x: Any) -> Any:
            self.counted += 1
            return super().forward(x)

    model = Counting(*build())
    optimizer = sgd(model)
    with hg.Recorder(tmp_path, model, optimizer, loss, samples()) as recorder:
        train(recorder, model, optimizer)
    run = hg.Recording(tmp_path, Counting(*build()), loss, samples())
    assert "counted" not in run.manifest.model["settings"].get("", {})
    assert run.manifest.model["settings"]["2"]["p"] == 0.3


def test_a_model_with_other_settings_than_the_recorded_one_is_refused(tmp_path: Path) -> None:
    model = build_batch_norm()
    optimizer = sgd(model)
    with hg.Recorder(tmp_path, model, optimizer, loss, samples()) as recorder:
        train(recorder, model, optimizer)
    other = build_batch_norm()
    other[1].momentum = 0.4
    with pytest.raises(RecordingMismatch, match=r"momentum of 1 was 0.1 and is 0.4 now"):
        hg.Recording(tmp_path, other, loss, samples())


def test_a_switch_of_torch_that_changes_while_recording_is_named(tmp_path: Path) -> None:
    model = build()
    optimizer = sgd(model)
    try:
        with (
            pytest.raises(StepError, match=r"'float32 matmul precision' was 'highest' and is 'high'"),
            hg.Recorder(tmp_path, model, optimizer, loss, samples()) as recorder,
        ):
            train(recorder, model, optimizer, between=lambda *_: torch.set_float32_matmul_precision("high"))
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_replay_runs_with_the_recorded_switches_and_leaves_the_present_ones(tmp_path: Path) -> None:
    model = build()
    optimizer = sgd(model)
    with hg.Recorder(tmp_path, model, optimizer, loss, samples()) as recorder:
        train(recorder, model, optimizer)
    run = hg.Recording(tmp_path, build(), loss, samples())
    try:
        torch.set_default_dtype(torch.float64)
        with run.replay():
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
