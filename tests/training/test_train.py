"""hg.train: its log, its refusals, what it does not change; that it is an ordinary loop. Resuming is in recording."""

import random
import shutil

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau, StepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.errors import DataError, DiskFull, LossError, RecordingMismatch, RunDamaged, RunExists
from hydragrad.randomness import stream_seed
from hydragrad.runs import lines
from hydragrad.runs.manifest import read_manifest
from hydragrad.training import epoch_logs, forecast_bytes, train
from hydragrad.training.loop import Plan
from recording.killing import Kill, killed, monitored
from recording.toys import (
    BATCH_SIZE,
    EPOCHS,
    PER_EPOCH,
    STEPS,
    build,
    build_batch_norm,
    digest,
    log_of,
    loss,
    same_weights,
    samples,
    sgd,
)
from recording.toys import train as train_toy


def test_averages_are_kept_and_asked_about(tmp_path):
    model = build()
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    run = train_toy(tmp_path, model, averages={"ema": ema}).averaged("ema")
    for name, value in ema.module.state_dict().items():
        torch.testing.assert_close(run.trained_model().state_dict()[name], value, rtol=0, atol=0)
    assert run.ends.weights[-1] == pytest.approx(0.1) and run.ends.weights[0] == pytest.approx(0.9 ** (STEPS - 1))
    assert hg.attribute(run, hg.mean_loss(samples())).values.isfinite().all()


def test_train_equals_a_loop_written_by_hand(tmp_path):
    """The same order and seeds, by hand."""
    model = build()
    run = train_toy(tmp_path, model)
    other = build()
    optimizer = sgd(other)
    for record in run.steps:
        torch.manual_seed(stream_seed(0, record.step))
        optimizer.zero_grad()
        loss(other, samples()[record.indices]).mean().backward()
        optimizer.step()
    assert same_weights(model, other)


def test_every_epoch_has_every_sample_once_in_an_order_of_its_own(tmp_path):
    run = train_toy(tmp_path)
    epochs = [run.steps[start : start + PER_EPOCH] for start in range(0, STEPS, PER_EPOCH)]
    orders = [[index for record in epoch for index in record.indices] for epoch in epochs]
    assert all(sorted(order) == list(range(22)) for order in orders)
    assert len({tuple(order) for order in orders}) == EPOCHS
    assert [len(record.indices) for record in run.steps[:PER_EPOCH]] == [5, 5, 5, 5, 2]


def test_the_run_depends_on_the_seed_and_not_on_the_global_generators(tmp_path):
    models = []
    for number, (seed, world) in enumerate([(0, 1), (0, 2), (1, 1)]):
        torch.manual_seed(world)
        random.seed(world)
        np.random.seed(world)
        before = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()
        models.append(build_batch_norm())
        train_toy(tmp_path / str(number), models[-1], seed=seed)
        assert (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()) == before
    assert same_weights(models[0], models[1])
    assert not same_weights(models[0], models[2])


def test_observers_do_not_change_the_run(tmp_path):
    class RandomObserver:
        def __init__(self):
            self.seen = []

        def step(self, indices, batch=None):
            self.seen.append(list(indices))
            return hg.recording.recorder.contextmanager(self._watch)()

        def _watch(self):
            yield hg.recording.StepHandle()

    alone, watched, observer = build(), build(), RandomObserver()
    run = train_toy(tmp_path / "alone", alone)
    train_toy(tmp_path / "watched", watched, observers=[observer])
    assert observer.seen == [record.indices for record in run.steps]
    assert same_weights(alone, watched)


# --- logs


def test_the_epoch_log_has_loss_rate_and_the_monitors_entries(tmp_path):
    def monitor(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        return {"tensor": torch.tensor(0.5), "numpy": np.float32(0.25), "count": 3}

    model = build()
    optimizer = sgd(model)
    run = train_toy(tmp_path, model, optimizer=optimizer, scheduler=StepLR(optimizer, 1, 0.5), monitor=monitor)
    logs = epoch_logs(tmp_path)
    assert [log["epoch"] for log in logs] == [0, 1, 2, 3]
    assert [log["lr"] for log in logs] == [0.1, 0.05, 0.025, 0.0125]
    assert all((log["tensor"], log["numpy"], log["count"]) == (0.5, 0.25, 3.0) for log in logs)
    losses = sum(record.loss * len(record.indices) for record in run.steps[:PER_EPOCH]) / 22
    assert logs[0]["train_loss"] == pytest.approx(losses, rel=1e-12)
    assert model.training


def test_a_monitor_may_use_generators_and_change_modes(tmp_path):
    def monitor(model):
        torch.rand(3), random.random(), np.random.random()
        model.train()
        return {}

    quiet, disturbed = build(), build()
    train_toy(tmp_path / "quiet", quiet)
    train_toy(tmp_path / "disturbed", disturbed, monitor=monitor)
    assert same_weights(quiet, disturbed)


def test_the_epoch_log_of_an_empty_folder_is_empty(tmp_path):
    assert epoch_logs(tmp_path) == []


# --- schedulers


def test_a_scheduler_steps_once_per_epoch_or_once_per_step(tmp_path):
    for every, rates in (("epoch", [0.5 ** (step // PER_EPOCH) for step in range(STEPS)]), ("step", None)):
        model = build()
        optimizer = sgd(model, lr=1e-3)
        scheduler = LambdaLR(optimizer, lambda count: 0.5**count)
        run = train_toy(tmp_path / every, model, optimizer=optimizer, scheduler=scheduler, scheduler_every=every)
        rates = rates or [0.5**step for step in range(STEPS)]
        assert [record.options[0]["lr"] for record in run.steps] == [1e-3 * rate for rate in rates]


@pytest.mark.parametrize("metric", ["one + two", ["one", "two"]])
def test_plateau_gets_the_sum_of_the_named_entries(tmp_path, metric):
    class MetricsLogged(ReduceLROnPlateau):
        def step(self, metrics, epoch=None):
            seen.append(metrics)
            super().step(metrics)

    seen, model = [], build()
    optimizer = sgd(model)
    train_toy(
        tmp_path,
        model,
        optimizer=optimizer,
        scheduler=MetricsLogged(optimizer),
        scheduler_metric=metric,
        monitor=lambda _: {"one": 1.0, "two": 2.5, "three": 9.0},
    )
    assert seen == [3.5] * EPOCHS


def test_plateau_needs_an_existing_entry(tmp_path):
    model = build()
    optimizer = sgd(model)
    plateau = ReduceLROnPlateau(optimizer)
    with pytest.raises(ValueError, match="ReduceLROnPlateau needs scheduler_metric"):
        train_toy(tmp_path, model, optimizer=optimizer, scheduler=plateau)
    with pytest.raises(ValueError, match=r"needs scheduler_metric.* and scheduler_every='epoch'"):
        train_toy(tmp_path, model, optimizer=optimizer, scheduler=plateau, scheduler_metric="x", scheduler_every="step")
    assert digest(tmp_path) == {}
    with pytest.raises(ValueError, match=r"entries of the epoch's log, \['lr', 'train_loss'\], got \['x'\]"):
        train_toy(tmp_path, model, optimizer=optimizer, scheduler=plateau, scheduler_metric="x")


# --- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "batch_size and accumulate must be at least 1, got 0, 5 and 1"),
        ({"batch_size": 0}, "batch_size and accumulate must be at least 1, got 4, 0 and 1"),
        ({"scheduler_every": "week"}, "scheduler_every must be 'epoch' or 'step', got 'week'"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1 step, got 0"),
    ],
)
def test_invalid_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        train_toy(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def relabelled(labels):
    x, y = samples().tensors
    y = y.clone()
    for index, label in labels.items():
        y[index] = label
    return TensorDataset(x, y)


@pytest.mark.parametrize(("labels", "sample"), [({9: 3}, 9), ({9: -1}, 9), ({4: 7, 9: 3}, 4)])
def test_labels_out_of_range_are_refused_before_the_first_step(tmp_path, labels, sample):
    model = build_batch_norm().eval()
    before = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(DataError, match=rf"batch of samples \[{sample}\].*Labels must be between 0 and"):
        train_toy(tmp_path / "run", model, data=relabelled(labels))
    assert not (tmp_path / "run").exists()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before[1].items())
    assert not model.training


def test_labels_that_the_loss_ignores_are_no_error(tmp_path):
    run = train_toy(tmp_path, data=relabelled({3: -100}))
    assert len(run.steps) == STEPS


def test_integers_that_are_no_labels_are_no_error(tmp_path):
    x, y = samples().tensors
    data = TensorDataset(x, y, torch.arange(1000, 1022))
    assert len(train_toy(tmp_path, data=data, loss=lambda model, batch: loss(model, batch[:2])).steps) == STEPS


def test_the_check_of_labels_does_not_hide_other_errors(tmp_path):
    """And it raises none: this loss cannot be evaluated in eval mode."""

    def training_only(model, batch):
        if not model.training:
            raise RuntimeError("not now")
        return loss(model, batch)

    model = build_batch_norm()
    optimizer = sgd(model)
    train(model, training_only, samples(), optimizer, epochs=1, batch_size=BATCH_SIZE, out=tmp_path / "fine")
    with pytest.raises(LossError, match=r"shape \(\)"):
        train_toy(tmp_path / "scalar", loss=lambda model, batch: loss(model, batch).mean())


def test_a_stray_epoch_log_is_not_overwritten(tmp_path):
    (tmp_path / "epochs.jsonl").write_text("mine")
    with pytest.raises(RunExists, match=r"already holds a run \(epochs\.jsonl\)\. Choose another directory"):
        train_toy(tmp_path)
    assert (tmp_path / "epochs.jsonl").read_text() == "mine"
    assert len(digest(tmp_path)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 6}, "recorded with batch_size=5, got 6"),
        ({"seed": 1}, "recorded with seed=0, got 1"),
        ({"data": samples(21)}, "22 samples; this data set has 21"),
    ],
)
def test_another_run_is_not_resumed(tmp_path, options, message):
    train_toy(tmp_path)
    before = digest(tmp_path)
    with pytest.raises(RecordingMismatch, match=message):
        train_toy(tmp_path, resume=True, **options)
    assert digest(tmp_path) == before


def test_a_run_of_the_users_own_loop_is_not_resumed_by_train(tmp_path):
    model = build()
    with hg.Recorder(tmp_path, model, sgd(model), loss, samples(), seed=0):
        pass
    with pytest.raises(RecordingMismatch, match="recorded with batch_size=None, got 5"):
        train_toy(tmp_path, resume=True)


# --- disk


def test_the_forecast_is_of_the_right_size(tmp_path):
    model = torch.nn.Linear(4, 20_000)
    data = TensorDataset(samples().tensors[0])
    run = train(
        model,
        lambda model, batch: model(batch[0]).square().mean(1),
        data,
        sgd(model, momentum=0.9),
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        out=tmp_path,
        checkpoint_every=5,
    )
    written = sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())
    forecast = forecast_bytes(model, sgd(model), 22, Plan(epochs=EPOCHS, batch_size=BATCH_SIZE), 5)
    assert 0.8 * written < forecast < 1.5 * written


def test_a_disk_that_is_too_small_is_refused_before_a_file_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DiskFull, match=r"will take about \d+ MiB and .* has 0 MiB free.*checkpoint_every"):
        train_toy(tmp_path / "deep" / "run")
    assert digest(tmp_path) == {}


def test_a_disk_full_in_the_epoch_log_loses_nothing(tmp_path, monkeypatch):
    straight = train_toy(tmp_path / "straight")
    append = lines.AppendOnlyLines.append

    def full(self, record):
        if self.path.name == "epochs.jsonl" and record["epoch"] == 1:
            with lines.writing(self.path):
                raise OSError(28, "No space left on device")
        append(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(lines.AppendOnlyLines, "append", full)
        with pytest.raises(DiskFull, match=r"epochs.jsonl"):
            train_toy(tmp_path / "run")
    assert read_manifest(tmp_path / "run").status == "interrupted"
    resumed = train_toy(tmp_path / "run", resume=True)
    assert log_of(tmp_path / "run") == log_of(tmp_path / "straight")
    assert same_weights(resumed.trained_model(), straight.trained_model())


# --- killed by the system


def test_a_run_killed_several_times_ends_at_the_same_bits(tmp_path):
    straight, _ = monitored(tmp_path / "straight")
    for stop in (Kill("monitor", 0), Kill("monitor", 1), Kill("monitor", 1)):
        killed(monitored, tmp_path / "run", stop, resume=True)
    model, run = monitored(tmp_path / "run", resume=True)
    assert run.completed
    assert same_weights(model, straight)
    assert log_of(tmp_path / "run") == log_of(tmp_path / "straight")


@pytest.mark.parametrize("first", [1, EPOCHS - 1])
def test_a_completed_run_can_be_trained_further(tmp_path, first):
    straight, _ = monitored(tmp_path / "straight")
    monitored(tmp_path / "run", epochs=first)
    model, _ = monitored(tmp_path / "run", resume=True)
    assert same_weights(model, straight)
    assert log_of(tmp_path / "run") == log_of(tmp_path / "straight")


def test_the_smaller_last_batch_is_left_out_on_demand(tmp_path):
    run = train_toy(tmp_path, drop_last=True)
    assert {len(record.indices) for record in run.steps} == {BATCH_SIZE} and len(run.steps) == EPOCHS * (22 // 5)
    with pytest.raises(RecordingMismatch, match="recorded with drop_last=True, got False"):
        train_toy(tmp_path, resume=True)


def test_an_epoch_without_a_whole_batch_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"at least one batch of 30 samples where drop_last=True, .* has 22\. Lower"):
        train_toy(tmp_path, drop_last=True, batch_size=30)


def test_an_epoch_log_that_lacks_ended_epochs_is_named_when_the_run_is_resumed(tmp_path):
    train_toy(tmp_path / "run", epochs=2)
    log = tmp_path / "run" / "epochs.jsonl"
    for kept in (log.read_bytes()[:20], b""):
        log.write_bytes(kept)
        with pytest.raises(RunDamaged, match=r"must hold the 2 epochs that ended before step 10, and holds 0"):
            train_toy(tmp_path / "run", resume=True)


def test_a_lost_line_of_the_last_epoch_is_named_where_the_schedule_counted_that_epoch(tmp_path):
    def train_by_epochs(epochs, **options):
        model = build()
        optimizer = sgd(model)
        scheduler = StepLR(optimizer, 1, gamma=0.9)
        options |= {"optimizer": optimizer, "scheduler": scheduler, "checkpoint_every": PER_EPOCH}
        return train_toy(tmp_path / "run", model, epochs=epochs, **options)

    train_by_epochs(2)
    log = tmp_path / "run" / "epochs.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[:-5])
    with pytest.raises(RunDamaged, match=r"must hold the 2 epochs that ended before step 10, and holds 1"):
        train_by_epochs(3, resume=True)
    log.write_bytes(whole)
    assert len(epoch_logs(train_by_epochs(3, resume=True).path)) == 3
