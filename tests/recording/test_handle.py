"""What a block's handle and micro-batches ask of a loop: each misuse is named, at the step where it happens."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

import hydragrad as hg
from hydragrad.errors import ReplayMismatch, StepError
from recording.toys import build, loss, samples, sgd

BATCH = samples()[:5]

Body = Callable[[nn.Module, Any, Any], object]


def twice(model: nn.Module, optimizer: Any, step: Any) -> None:
    (step.losses(BATCH) + step.losses(BATCH)).mean().backward()


def without_gradients(model: nn.Module, optimizer: Any, step: Any) -> None:
    with torch.no_grad():
        step.losses(BATCH)


def reduced(reduce: Callable[[Tensor], Tensor]) -> Body:
    def body(model: nn.Module, optimizer: Any, step: Any) -> None:
        reduce(step.losses(BATCH)).backward()

    return body


def elsewhere(model: nn.Module, optimizer: Any, step: Any) -> None:
    step.losses(BATCH)
    loss(model, BATCH).mean().backward()
    optimizer.step()


def clipped_first(model: nn.Module, optimizer: Any, step: Any) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    clip_grad_norm_(model.parameters(), 0.1)


def clipped_together(model: nn.Module, optimizer: Any, step: Any) -> None:
    step.losses(BATCH).mean().backward()
    other = nn.Parameter(torch.ones(7))
    other.grad = torch.ones(7)
    clip_grad_value_([*model.parameters(), other], 1e-4)


def clipped_without_step(model: nn.Module, optimizer: Any, step: Any) -> None:
    step.losses(BATCH).mean().backward()
    clip_grad_norm_(model.parameters(), 1e-3)


def moved_without_step(model: nn.Module, optimizer: Any, step: Any) -> None:
    step.losses(BATCH).mean().backward()
    with torch.no_grad():
        model[0].weight.mul_(2)


REFUSED: dict[str, tuple[Body, str]] = {
    "losses twice": (twice, r"called twice in one recorder.step\(\) block, at step 0"),
    "no gradients": (without_gradients, r"at step 0 its losses have no gradient"),
    "a power": (reduced(lambda losses: losses.mean() ** 2), r"depends on the losses themselves"),
    "a soft maximum": (reduced(lambda losses: losses.logsumexp(0)), r"depends on the losses themselves"),
    "another loss": (elsewhere, r"must start from the losses that losses\(\) gave; at step 0 none reached"),
    "clipping first": (clipped_first, r"clipped in a recorder.step\(\) block before it"),
    "clipping with others": (clipped_together, r"a parameter of shape \(7,\) into account"),
    "clipping early": (clipped_without_step, r"clipped in a block without optimizer.step\(\)"),
    "moved weights": (moved_without_step, r"before step 0 0.weight moved in one"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_misuse_is_named(tmp_path, name):
    body, message = REFUSED[name]
    model = build()
    optimizer = sgd(model)
    with (
        pytest.raises(StepError, match=message),
        hg.Recorder(tmp_path / "run", model, optimizer, loss, samples()) as recorder,
        recorder.step(range(5)) as step,
    ):
        body(model, optimizer, step)


def test_a_handle_ends_with_its_block(tmp_path):
    model = build()
    optimizer = sgd(model)
    with hg.Recorder(tmp_path, model, optimizer, loss, samples()) as recorder:
        with recorder.step(range(5)) as step:
            step.losses(BATCH).mean().backward()
            optimizer.step()
        with pytest.raises(StepError, match="block that gave it, which is over"):
            step.losses(BATCH)


def test_an_observer_of_the_users_own_may_have_no_losses():
    with pytest.raises(StepError, match="This observer has no loss to give"):
        hg.recording.StepHandle().losses(BATCH)


def two_micro_batches(path, between):
    model = build()
    optimizer = sgd(model)
    with hg.Recorder(path, model, optimizer, loss, samples()) as recorder:
        for number in range(2):
            with recorder.step(range(5)) as step:
                step.losses(BATCH).mean().backward()
                if number:
                    optimizer.step()
            between(model, optimizer)


def edit(model: nn.Module, optimizer: Any) -> None:
    for parameter in model.parameters():
        parameter.grad.add_(1.0)


def add_group(model: nn.Module, optimizer: Any) -> None:
    taken = optimizer.param_groups[0]["params"].pop()
    taken.grad = None


def test_gradients_stay_as_they_are_between_micro_batches(tmp_path):
    with pytest.raises(ReplayMismatch, match=r"At step 0 they changed between two micro-batches: noise was added"):
        two_micro_batches(tmp_path / "run", edit)


def test_an_optimizer_keeps_its_parameters_during_a_step(tmp_path):
    with pytest.raises(StepError, match=r"had 4 of them at one micro-batch and 3 at the next"):
        two_micro_batches(tmp_path / "run", add_group)


def test_one_coefficient_stands_for_equal_ones(tmp_path):
    model = build()
    optimizer = sgd(model)
    weights = torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0])
    reductions = [torch.Tensor.mean, torch.Tensor.sum, lambda losses: losses.sum() / 7, lambda losses: losses @ weights]
    with hg.Recorder(tmp_path, model, optimizer, loss, samples()) as recorder:
        for reduce in reductions:
            with recorder.step(range(5)) as step:
                optimizer.zero_grad()
                reduce(step.losses(BATCH)).backward()
                optimizer.step()
    found = [record.micro_batches[0].coefficients for record in hg.Recording(tmp_path, build(), loss, samples()).steps]
    assert found[:2] == [1 / 5, 1.0] and found[2] == pytest.approx(1 / 7) and found[3] == tuple(weights.tolist())
