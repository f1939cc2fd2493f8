"""A gradient scaler: its division is recorded, a step that it skips is none, and derivatives are as without it."""

from contextlib import ExitStack

import pytest
import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import SGD, AdamW

import hydragrad as hg
from attribution import oracle
from hydragrad.errors import ReplayMismatch
from recording.toys import build, build_batch_norm, loss, replays_to_the_bit, samples, sgd


def train(path, kind, scaler, *, clip=True, skip=None, make=lambda model: AdamW(model.parameters(), lr=0.01)):
    torch.manual_seed(0)
    model = build_batch_norm()
    optimizer = make(model)
    with hg.Recorder(path, model, optimizer, loss, samples(), seed=1) as recorder:
        for number in range(9):
            indices = [(5 * number + i) % 22 for i in range(5)]
            with recorder.step(indices) as step:
                optimizer.zero_grad()
                with torch.autocast("cpu", kind, enabled=kind is not None):
                    losses = step.losses(samples()[indices])
                scaler.scale(losses.mean()).backward()
                scaler.unscale_(optimizer)
                if clip:
                    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                if number == skip:  # as an overflow has it
                    scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"][torch.device("cpu")].fill_(1)
                scaler.step(optimizer)
                scaler.update()
    return hg.Recording(path, build_batch_norm(), loss, samples())


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("kind", [torch.float16, None], ids=["half", "full"])
def test_a_scaled_run_is_repeated_to_the_bit_and_its_scores_are_those_without(tmp_path, kind, clip):
    run = train(tmp_path / "scaled", kind, GradScaler("cpu", init_scale=1024.0), clip=clip)
    plain = train(tmp_path / "plain", kind, GradScaler("cpu", enabled=False), clip=clip)
    assert replays_to_the_bit(run)
    assert [type(each).__name__ for each in run.steps[0].transforms] == ["Scale", "ClipNorm"][: 1 + clip]
    query = hg.mean_loss(samples())
    for curvature in ("none", "hessian"):
        ours, theirs = (hg.attribute(each, query, curvature=curvature).values for each in (run, plain))
        assert oracle.relative(ours, theirs) < (0.1 if kind else 1e-3)


def test_a_step_that_the_scaler_skips_is_no_step(tmp_path):
    run = train(tmp_path, None, GradScaler("cpu", init_scale=64.0), clip=False, skip=4)
    assert len(run.steps) == 8
    first, second = run.steps[4].micro_batches
    assert first.coefficients == (0.0,) * 5 and second.coefficients != first.coefficients
    assert replays_to_the_bit(run)


def test_a_factor_that_is_no_power_of_two_is_named(tmp_path):
    model = build_batch_norm()
    optimizer = SGD(model.parameters(), lr=0.1)
    with (
        pytest.raises(ReplayMismatch, match=r"all were scaled by 0.75"),
        hg.Recorder(tmp_path / "run", model, optimizer, loss, samples()) as recorder,
        recorder.step(range(5)) as step,
    ):
        step.losses(samples()[:5]).mean().backward()
        for parameter in model.parameters():
            parameter.grad.mul_(0.75)
        optimizer.step()


@pytest.mark.parametrize("recorded", [False, True], ids=["alone", "with a recorder"])
def test_rows_are_those_without_a_scaler(tmp_path, recorded):
    found = []
    for number, scaler in enumerate([GradScaler("cpu", enabled=False), GradScaler("cpu", init_scale=1024.0)]):
        model = build()
        optimizer = sgd(model)
        with ExitStack() as stack:
            tracker = hg.Tracker(model, optimizer, loss, samples(), seed=1)
            recorder = hg.Recorder(tmp_path / str(number), model, optimizer, loss, samples(), seed=1)
            observers = [stack.enter_context(each) for each in ([recorder, tracker] if recorded else [tracker])]
            for step in range(6):
                indices = [(5 * step + i) % 22 for i in range(5)]
                with ExitStack() as blocks:
                    handle = [blocks.enter_context(each.step(indices)) for each in observers][-1]
                    optimizer.zero_grad()
                    scaler.scale(handle.losses(samples()[indices]).mean()).backward()
                    scaler.step(optimizer)
                    scaler.update()
        found.append(tracker.contributions(hg.mean_loss(samples())).values)
    assert oracle.relative(*found) < 1e-6
