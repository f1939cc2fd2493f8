"""What callbacks of frameworks need: means that are scaled later, checkpoints when they say, norms without a limit."""

import pytest
import torch
from torch import nn

import hydragrad as hg
from hydragrad.errors import RecordingMismatch, StepError
from recording.toys import build, loss, samples, sgd


def run(path, part, count=6, **options):
    model = build()
    optimizer = sgd(model)
    with hg.Recorder(path, model, optimizer, loss, samples(), seed=1, **options) as recorder:
        for number in range(recorder.next_step, count):
            indices = [(4 * number + i) % 22 for i in range(4)]
            with recorder.step(indices) as step:
                part(model, optimizer, step, samples()[indices])
    return hg.Recording(path, build(), loss, samples())


def test_a_mean_may_be_scaled_where_losses_are_not_asked_for(tmp_path):
    def scaled(model, optimizer, step, batch):
        optimizer.zero_grad()
        mean = loss(model, batch).mean()
        step.reduced(mean)
        (mean / 3).backward()
        optimizer.step()

    recorded = run(tmp_path / "run", scaled)
    for record in recorded.steps:
        assert record.micro_batches[0].coefficients == pytest.approx(1 / 12, rel=1e-6)


def test_a_sum_is_one_where_the_recorder_is_told_so(tmp_path):
    def summed(model, optimizer, step, batch):
        optimizer.zero_grad()
        total = loss(model, batch).sum()
        step.reduced(total)
        (total / 8).backward()
        optimizer.step()

    recorded = run(tmp_path / "run", summed, reduction="sum")
    assert {record.micro_batches[0].coefficients for record in recorded.steps} == {1 / 8}


def test_a_mean_that_is_bent_is_refused(tmp_path):
    def squared(model, optimizer, step, batch):
        mean = loss(model, batch).mean()
        step.reduced(mean)
        mean.square().backward()
        optimizer.step()

    with pytest.raises(StepError, match="the derivative of the reduction depends on the losses themselves"):
        run(tmp_path / "run", squared)


def test_what_is_no_scalar_of_the_graph_is_refused(tmp_path):
    for wrong in (lambda losses: losses, lambda losses: losses.mean().detach(), lambda losses: losses.mean().item()):
        with pytest.raises(StepError, match="must be one number that backward"):
            run(tmp_path / "run", lambda model, _, step, batch, wrong=wrong: step.reduced(wrong(loss(model, batch))))
    handles = []
    with pytest.raises(StepError, match="must hold a backward pass"):
        run(tmp_path / "run", lambda _model, _optimizer, step, _batch: handles.append(step))
    with pytest.raises(StepError, match=r"reduced\(\) belongs inside the recorder.step\(\) block"):
        handles[0].reduced(torch.ones(()))


def plain(model, optimizer, step, batch):
    optimizer.zero_grad()
    step.losses(batch).mean().backward()
    optimizer.step()


def test_measuring_a_norm_without_a_limit_is_no_clipping(tmp_path):
    def measured(model, optimizer, step, batch):
        optimizer.zero_grad()
        step.losses(batch).mean().backward()
        assert nn.utils.clip_grad_norm_(model.parameters(), float("inf")) > 0
        optimizer.step()

    recorded, same = run(tmp_path / "run", measured), run(tmp_path / "same", plain)
    assert not any(record.transforms for record in recorded.steps)
    assert [record.state for record in recorded.steps] == [record.state for record in same.steps]


def test_a_run_is_resumed_at_a_checkpoint_that_was_saved(tmp_path):
    whole = run(tmp_path / "whole", plain, count=9)
    model = build()
    optimizer = sgd(model)
    with hg.Recorder(tmp_path / "run", model, optimizer, loss, samples(), seed=1, checkpoint_every=4) as recorder:
        for number in range(7):
            indices = [(4 * number + i) % 22 for i in range(4)]
            with recorder.step(indices) as step:
                plain(model, optimizer, step, samples()[indices])
            if number == 5:
                recorder.save()
                recorder.save()
    options = {"resume": True, "checkpoint_every": 4}
    with pytest.raises(RecordingMismatch, match=r"must have a checkpoint before step 5 .* before \[0, 4, 6, 7\]"):
        run(tmp_path / "run", plain, count=9, resume_at=5, **options)
    resumed = run(tmp_path / "run", plain, count=9, resume_at=6, **options)
    assert [record.state for record in resumed.steps] == [record.state for record in whole.steps]
    assert [start for start, _ in resumed.segments] == [0, 4, 6]


def test_a_checkpoint_is_saved_between_steps_only(tmp_path):
    model = build()
    recorder = hg.Recorder(tmp_path / "run", model, sgd(model), loss, samples())
    message = r"recorder.save\(\) belongs between two steps"
    with pytest.raises(StepError, match=message), recorder, recorder.step([0, 1]):
        recorder.save()


def test_autocast_is_seen_where_a_loop_calls_parts_of_the_model(tmp_path):
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.ModuleList([nn.Linear(4, 5), nn.Linear(5, 3)])

        def forward(self, x):
            raise AssertionError("nobody calls it")

    def of_parts(model, batch):
        first, second = model.layers
        return nn.functional.cross_entropy(second(first(batch[0]).tanh()).float(), batch[1], reduction="none")

    model = Parts()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with hg.Recorder(tmp_path / "run", model, optimizer, of_parts, samples()) as recorder, recorder.step([0, 1]):
        with torch.autocast("cpu", torch.bfloat16):
            mean = of_parts(model, samples()[[0, 1]]).mean()
        mean.backward()
        optimizer.step()
    recorded = hg.Recording(tmp_path / "run", model, of_parts, samples())
    assert recorded.steps[0].micro_batches[0].autocast == ("cpu", "bfloat16")
