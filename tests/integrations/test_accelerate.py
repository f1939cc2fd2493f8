"""Loops under accelerate, as transformers' examples without a Trainer have them: recorded, and differentiated."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hydragrad as hg
from hydragrad.errors import StepError, Unsupported

pytest.importorskip("accelerate", reason="the accelerate extra is not installed")
pytest.importorskip("transformers", reason="the transformers extra is not installed")

from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, GradientState
from transformers import get_scheduler

from hydragrad.integrations.sequence_losses import sequence_losses
from integrations.differences import along_two_directions
from integrations.trainers import BUILD, SAMPLES, data, padded, written_out

EPOCHS, LIMIT = 2, 0.3


@pytest.fixture(autouse=True)
def fresh_state():
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def prepared(name, dtype=torch.float64, **options):
    """Model, optimizer, loader and schedule as the examples prepare them, of a tiny model."""
    model = BUILD[name]().to(dtype)
    accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True, **options)
    decays = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": decays, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=5e-3)
    loader = DataLoader(data(name), batch_size=3, shuffle=True, collate_fn=without_text)
    torch.manual_seed(4)
    schedule = get_scheduler("linear", optimizer, num_warmup_steps=1, num_training_steps=EPOCHS * 3)
    return accelerator, *accelerator.prepare(model, optimizer, loader, schedule)


def without_text(items):
    return padded([{name: value for name, value in item.items() if name != "text"} for item in items])


def unrecorded(name, weights=None, batches=None, **options):
    """The example's loop; the samples of its batches are needed where they have weights."""
    accelerator, model, optimizer, loader, schedule = prepared(name, **options)
    number = 0
    for _ in range(EPOCHS):
        model.train()
        for batch in loader:
            with accelerator.accumulate(model):
                if weights is None:
                    loss = model(**batch).loss
                else:
                    losses, tokens = written_out(model, batch)
                    loss = (losses * weights[batches[number]]).sum() / (len(losses) if tokens is None else tokens)
                number += 1
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), LIMIT)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    return model


def recorded(name, path, **options):
    """The same, with the lines that record it."""
    accelerator, model, optimizer, loader, schedule = prepared(name, **options)
    loss_of, train_set = sequence_losses(model), data(name)
    with hg.Recorder(path, model, optimizer, loss_of, train_set, scheduler=schedule, collate=without_text) as recorder:
        for _ in range(EPOCHS):
            model.train()
            for indices, batch in hg.indexed(loader):
                with recorder.step(indices) as step, accelerator.accumulate(model):
                    losses = step.losses(batch)
                    tokens = loss_of.tokens(batch)
                    accelerator.backward(losses.mean() if tokens is None else losses.sum() / tokens)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), LIMIT)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
    return model, hg.Recording(path, model, loss_of, train_set, collate=without_text)


@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_recorded_loop_trains_what_it_trains_unrecorded(name, mixed_precision, tmp_path):
    options = {"dtype": torch.float32, "mixed_precision": mixed_precision}
    plain = unrecorded(name, **options)
    AcceleratorState._reset_state(reset_partial_state=True)
    model, run = recorded(name, tmp_path / "run", **options)
    rounding = 1e-4 if mixed_precision == "bf16" else 1e-6
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=rounding, atol=rounding)
    assert [len(step.micro_batches) for step in run.steps] == [2, 2, 1] * EPOCHS
    assert any(step.clipped for step in run.steps)
    autocast = ("cpu", "bfloat16") if mixed_precision == "bf16" else None
    assert {part.autocast for step in run.steps for part in step.micro_batches} == {autocast}
    scores = hg.attribute(run, hg.mean_loss(data(name, 5, seed=9)))
    assert scores.evidence.replay_exact and scores.values.abs().min() > 0


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_contributions_are_derivatives_of_real_retrainings(name, tmp_path):
    _, run = recorded(name, tmp_path / "run")
    batches = [part.indices for step in run.steps for part in step.micro_batches]

    def retrained(weights):
        AcceleratorState._reset_state(reset_partial_state=True)
        model = unrecorded(name, weights, batches).eval()
        return written_out(model, padded(data(name, 5, seed=9)))[0].mean().item()

    directions, expected = along_two_directions(retrained, SAMPLES)
    scores = hg.attribute(run, hg.mean_loss(data(name, 5, seed=9)), curvature="hessian", smoothing=0)
    torch.testing.assert_close(scores.values[0] @ directions.T, expected, rtol=1e-5, atol=1e-9)


def test_a_prepared_loader_stays_as_it_was():
    _, _, _, loader, _ = prepared("bert")
    base = loader.base_dataloader
    whole = list(hg.indexed(loader))
    assert loader.base_dataloader is base and len(loader) == len(whole) == 5
    assert sorted(index for indices, _ in whole for index in indices) == list(range(SAMPLES))
    for indices, batch in whole:
        expected = without_text([data("bert")[index] for index in indices])
        assert all(torch.equal(batch[name], value) for name, value in expected.items())
    next(hg.indexed(loader))
    assert loader.base_dataloader is base


def test_batches_that_are_skipped_are_not_yielded():
    seedable = DataLoaderConfiguration(use_seedable_sampler=True)
    accelerator, _, _, loader, _ = prepared("bert", dataloader_config=seedable)
    loader.set_epoch(1)
    whole = [list(indices) for indices, _ in hg.indexed(loader)]
    loader.set_epoch(1)
    skipping = accelerator.skip_first_batches(loader, 2)
    assert [list(indices) for indices, _ in hg.indexed(skipping)] == whole[2:]
    loader.set_epoch(1)
    loader.skip_batches = 2
    assert [list(indices) for indices, _ in hg.indexed(loader)] == whole[2:]


def test_a_run_is_resumed_inside_an_epoch(tmp_path):
    runs = {}
    for name, stops in (("whole", None), ("resumed", 4)):
        for attempt in range(2 if stops else 1):
            accelerator, model, optimizer, loader, schedule = prepared("gpt2")
            loss, train_set = sequence_losses(model), data("gpt2")
            options = {"seed": 5, "checkpoint_every": 1, "resume": True, "scheduler": schedule, "collate": without_text}
            recorder = hg.Recorder(tmp_path / name, model, optimizer, loss, train_set, **options)
            with recorder:
                for epoch in range(recorder.next_step // 5, EPOCHS):
                    loader.set_epoch(epoch)
                    for indices, batch in hg.indexed(loader, recorder=recorder):
                        with recorder.step(indices) as step:
                            accelerator.backward(step.losses(batch).mean())
                            accelerator.gradient_state._set_sync_gradients(True)
                            optimizer.step()
                            optimizer.zero_grad()
                        schedule.step()
                        if attempt == 0 and recorder.next_step == stops:
                            break
                    if attempt == 0 and recorder.next_step == stops:
                        break
        runs[name] = hg.Recording(tmp_path / name, model, loss, train_set, collate=without_text)
    one, other = runs.values()
    assert [step.indices for step in one.steps] == [step.indices for step in other.steps]
    assert [step.state for step in one.steps] == [step.state for step in other.steps]


def test_what_is_not_recorded_is_refused_by_name(tmp_path):
    accelerator, model, optimizer, loader, _ = prepared("bert", torch.float32, mixed_precision="bf16")
    options = {"collate": without_text}
    recorder = hg.Recorder(tmp_path / "run", model, optimizer, sequence_losses(model), data("bert"), **options)
    with pytest.raises(Unsupported, match=r"Take the losses from the recorder, which enters it outside"), recorder:
        for indices, batch in hg.indexed(loader):
            with recorder.step(indices):
                accelerator.backward(model(**batch).loss)
                optimizer.step()
    optimizer.scaler = object()
    with pytest.raises(Unsupported, match="this Accelerator has mixed_precision='fp16'"):
        hg.Recorder(tmp_path / "run", model, optimizer, sequence_losses(model), data("bert"), **options)
    with pytest.raises(Unsupported, match="it got accelerate's Accelerator"):
        next(hg.indexed(accelerator))


def test_clipping_of_every_micro_batch_is_named(tmp_path):
    accelerator, model, optimizer, loader, _ = prepared("bert")
    loss, message = sequence_losses(model), r"clipped in a block without optimizer.step\(\)"
    recorder = hg.Recorder(tmp_path / "run", model, optimizer, loss, data("bert"), collate=without_text)
    with pytest.raises(StepError, match=message), recorder:
        for indices, batch in hg.indexed(loader):
            with recorder.step(indices) as step, accelerator.accumulate(model):
                accelerator.backward(step.losses(batch).mean())
                accelerator.clip_grad_norm_(model.parameters(), LIMIT)
                optimizer.step()


def test_a_tracker_takes_the_wrapped_optimizer_too():
    train_set = TensorDataset(torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 2)

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    rows = []
    for wraps in (False, True):
        torch.manual_seed(2)
        model, accelerator = nn.Linear(3, 2), Accelerator(cpu=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        loader = DataLoader(train_set, batch_size=2)
        if wraps:
            model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        with hg.Tracker(model, optimizer, loss, train_set) as tracker:
            for indices, batch in hg.indexed(loader):
                with tracker.step(indices, batch):
                    optimizer.zero_grad()
                    loss(model, batch).mean().backward()
                    optimizer.step()
        rows.append(tracker.contributions(hg.mean_loss(train_set)).values)
    assert torch.equal(*rows) and rows[0].abs().min() > 0
