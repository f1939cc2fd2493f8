"""What the Recorder asks of a loop and of what it is given, beyond test_faults."""

import itertools
import json
import math
import random
import stat

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset, default_collate

import hydragrad as hg
from hydragrad.errors import QueryError, RecordingMismatch, ReplayMismatch, RunExists, StepError, Unsupported
from hydragrad.runs.checkpoints import CheckpointFolder
from hydragrad.runs.manifest import read_manifest
from recording.toys import (
    SAMPLES,
    Plain,
    build,
    build_batch_norm,
    digest,
    loss,
    replays_to_the_bit,
    same_weights,
    samples,
    sgd,
    take_step,
)


class Counting(Plain):
    """Items that are never the same twice."""

    drawn = 0

    def __getitem__(self, index):
        Counting.drawn += 1
        x, y = super().__getitem__(index)
        return x + 0.01 * Counting.drawn, y


def steps(recorder, model, optimizer, count=3, data=None):
    data = samples() if data is None else data
    for step in range(count):
        indices = [(4 * step + i) % SAMPLES for i in range(4)]
        batch = default_collate([data[i] for i in indices])
        with recorder.step(indices, batch):
            optimizer.zero_grad()
            loss(model, batch).mean().backward()
            optimizer.step()


def record(path, count=3, model=None, data=None, **options):
    model, data = build() if model is None else model, samples() if data is None else data
    optimizer = sgd(model)
    with hg.Recorder(path, model, optimizer, loss, data, **options) as recorder:
        steps(recorder, model, optimizer, count, data)
    return model


# --- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "median"}, "reduction must be 'mean' or 'sum', got 'median'"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1 step, got 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        record(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def checkpoints(path):
    return list(CheckpointFolder(path).entries())


def test_where_checkpoints_are(tmp_path):
    record(tmp_path / "every step", 5, checkpoint_every=1)
    record(tmp_path / "every third", 7, checkpoint_every=3)
    record(tmp_path / "rarely", 30)
    assert checkpoints(tmp_path / "every step") == [0, 1, 2, 3, 4, 5]
    assert checkpoints(tmp_path / "every third") == [0, 3, 6, 7]
    *rarely, end = checkpoints(tmp_path / "rarely")
    assert (rarely[:6], end) == ([0, 1, 2, 3, 5, 7], 30)
    assert all(later - earlier >= math.isqrt(later) for earlier, later in itertools.pairwise(rarely))


def test_the_handle_tells_the_loss_to_the_log(tmp_path):
    model = build()
    optimizer = sgd(model)
    with hg.Recorder(tmp_path, model, optimizer, loss, samples()) as recorder, recorder.step([1]) as handle:
        loss(model, samples()[1:2]).mean().backward()
        optimizer.step()
        handle.loss = 0.75
    assert hg.Recording(tmp_path, model, loss, samples()).steps[0].loss == 0.75


def test_the_seed_is_told_by_the_users_and_leaves_no_trace(tmp_path):
    seeds = []
    for number, seed in enumerate([1, 1, 2]):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        record(tmp_path / str(number))
        assert torch.equal(torch.get_rng_state(), before)
        seeds.append(read_manifest(tmp_path / str(number)).seed)
    assert seeds[0] == seeds[1] != seeds[2]
    record(tmp_path / "given", seed=5)
    assert read_manifest(tmp_path / "given").seed == 5


def test_others_may_read_what_they_may_read(tmp_path):
    record(tmp_path, store_batches=True)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.rglob("*") if file.is_file()}
    assert len(modes) == 1


def test_a_sum_is_recorded_as_one(tmp_path):
    model = build()
    optimizer = sgd(model, lr=0.01)
    with hg.Recorder(tmp_path, model, optimizer, loss, samples(), reduction="sum") as recorder:
        for _ in range(3):
            with recorder.step([3, 1, 4]):
                optimizer.zero_grad()
                loss(model, samples()[[3, 1, 4]]).sum().backward()
                optimizer.step()
    run = hg.Recording(tmp_path, model, loss, samples())
    assert run.steps[0].micro_batches[0].coefficients == 1.0
    assert replays_to_the_bit(run)
    assert same_weights(run.trained_model(), model)


def test_indices_may_be_a_tensor(tmp_path):
    model = build()
    optimizer = sgd(model)
    with hg.Recorder(tmp_path, model, optimizer, loss, samples()) as recorder:
        take_step(recorder, model, optimizer, torch.tensor([5, 2]), samples()[[5, 2]])
    assert hg.Recording(tmp_path, model, loss, samples()).steps[0].indices == [5, 2]


# --- a loop that changes as it goes


def test_freezing_unfreezing_and_new_groups_replay_to_the_bit(tmp_path):
    model = build_batch_norm()
    optimizer = torch.optim.SGD(model[4].parameters(), lr=0.1, momentum=0.5, nesterov=True)
    model[0].weight.requires_grad_(False)
    with hg.Recorder(tmp_path, model, optimizer, loss, samples(), checkpoint_every=4) as recorder:
        steps(recorder, model, optimizer, 3)
        model[0].weight.requires_grad_(True)
        optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.02, "weight_decay": 0.1})
        steps(recorder, model, optimizer, 3)
        model[1].eval()
        optimizer.param_groups[0]["lr"] = 0.05
        steps(recorder, model, optimizer, 3)
    run = hg.Recording(tmp_path, build_batch_norm(), loss, samples())
    assert replays_to_the_bit(run)
    assert same_weights(run.trained_model(), model)


def test_parameters_without_a_gradient_are_skipped_in_the_replay_too(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = build(), nn.Linear(4, 3)

        def forward(self, x):
            return self.used(x)

    model = record(tmp_path, model=Two())
    run = hg.Recording(tmp_path, Two(), loss, samples())
    assert run.steps[0].structure.idle == ("unused.weight", "unused.bias")
    assert same_weights(run.trained_model(), model)


def test_a_step_that_failed_may_be_left_out(tmp_path):
    """Out of memory, say: the user catches it, and the run goes on without that batch."""
    model = build()
    optimizer = sgd(model)
    with hg.Recorder(tmp_path, model, optimizer, loss, samples()) as recorder:
        steps(recorder, model, optimizer, 2)
        with pytest.raises(MemoryError), recorder.step([1, 2]):
            raise MemoryError
        steps(recorder, model, optimizer, 2)
    run = hg.Recording(tmp_path, model, loss, samples())
    assert len(run.steps) == 4
    assert replays_to_the_bit(run)


# --- loops that can't be recorded


def test_a_recorder_is_used_inside_its_block(tmp_path):
    model = build()
    recorder = hg.Recorder(tmp_path, model, sgd(model), loss, samples())
    with pytest.raises(StepError, match="belongs inside"), recorder.step([0]):
        pass
    with recorder:
        pass
    with pytest.raises(StepError, match="belongs inside"), recorder.step([0]):
        pass


def test_weights_changed_through_data_are_noticed(tmp_path):
    """`parameter.data` leaves no trace in the version that torch counts."""
    model = build()
    optimizer = sgd(model)
    message = "changed outside recorder.step.. before step 2"
    with pytest.raises(StepError, match=message), hg.Recorder(tmp_path, model, optimizer, loss, samples()) as recorder:
        steps(recorder, model, optimizer, 2)
        for parameter in model.parameters():
            parameter.data.clamp_(-0.01, 0.01)
        steps(recorder, model, optimizer, 1)


def test_foreign_parameters_added_later_are_refused(tmp_path):
    model = build()
    optimizer = sgd(model)
    with (
        pytest.raises(Unsupported, match=r"parameter of shape \(7,\) that is not the model's"),
        hg.Recorder(tmp_path, model, optimizer, loss, samples()) as recorder,
    ):
        steps(recorder, model, optimizer, 2)
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(7))]})
        steps(recorder, model, optimizer, 1)
    with pytest.warns(UserWarning, match="last complete step, 2"):
        assert len(hg.Recording(tmp_path, model, loss, samples()).steps) == 2


def test_randomness_of_a_generator_of_ones_own_is_noticed(tmp_path):
    generator = random.Random(0)

    def noisy(model, batch):
        return loss(model, (batch[0] + generator.random(), batch[1]))

    model = build()
    optimizer = sgd(model)
    with (
        pytest.raises(ReplayMismatch, match="Step 0 can't be replayed from what the recorder sees"),
        hg.Recorder(tmp_path, model, optimizer, noisy, samples()) as recorder,
        recorder.step([0, 1]),
    ):
        noisy(model, samples()[:2]).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("draw", [random.random, np.random.rand], ids=["python", "numpy"])
def test_randomness_of_python_and_numpy_is_repeated(draw, tmp_path):
    def noisy(model, batch):
        return loss(model, (batch[0] + draw(), batch[1]))

    model = build()
    optimizer = sgd(model)
    with hg.Recorder(tmp_path, model, optimizer, noisy, samples()) as recorder:
        for _ in range(7):
            with recorder.step([0, 1]):
                optimizer.zero_grad()
                noisy(model, samples()[:2]).mean().backward()
                optimizer.step()
    run = hg.Recording(tmp_path, build(), noisy, samples())
    with run.replay() as replay:
        replay.trajectory.restore(run.initial)
        for record in run.steps:
            replay.advance(record, run.batches(record))


def test_another_collate_than_the_recorders_is_noticed(tmp_path):
    def doubled(items):
        x, y = default_collate(items)
        return 2 * x, y

    model = build()
    optimizer = sgd(model)
    with (
        pytest.raises(ReplayMismatch, match="the loop's batch is not train_set"),
        hg.Recorder(tmp_path, model, optimizer, loss, Plain()) as recorder,
    ):
        for indices, batch in hg.indexed(DataLoader(Plain(), 4, collate_fn=doubled)):
            take_step(recorder, model, optimizer, indices, batch)


def test_stored_batches_must_be_given(tmp_path):
    model = build()
    optimizer = sgd(model)
    with (
        pytest.raises(StepError, match=r"batch must be given, .* recorder.step\(indices, batch\)"),
        hg.Recorder(tmp_path, model, optimizer, loss, samples(), store_batches=True) as recorder,
    ):
        take_step(recorder, model, optimizer, [0, 1], samples()[:2])


def test_a_scheduler_that_would_have_to_be_pickled_is_refused_at_once(tmp_path):
    class Odd(StepLR):
        def state_dict(self):
            return super().state_dict() | {"model": build()}

    model = build()
    optimizer = sgd(model)
    with (
        pytest.raises(Unsupported, match="scheduler's state holds a Sequential"),
        hg.Recorder(tmp_path, model, optimizer, loss, samples(), scheduler=Odd(optimizer, 1)) as recorder,
    ):
        steps(recorder, model, optimizer, 1)


def test_a_mistake_in_a_step_leaves_the_run_as_it_was(tmp_path):
    model = build()
    optimizer = sgd(model)
    with pytest.raises(QueryError), hg.Recorder(tmp_path, model, optimizer, loss, samples()) as recorder:
        steps(recorder, model, optimizer, 3)
        take_step(recorder, model, optimizer, [SAMPLES], samples()[:1])
    assert read_manifest(tmp_path).status == "interrupted"
    assert read_manifest(tmp_path).steps == 3


# --- resuming


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 5}, "recorded with seed=4, got 5"),
        ({"seed": 4, "store_batches": True}, "recorded with store_batches=False, got True"),
        ({"reduction": "sum"}, "recorded with reduction='mean', got 'sum'"),
    ],
)
def test_another_option_than_recorded_is_refused(tmp_path, options, message):
    record(tmp_path, seed=4)
    before = digest(tmp_path)
    with pytest.raises(RecordingMismatch, match=message):
        record(tmp_path, resume=True, **options)
    assert digest(tmp_path) == before


def test_the_same_seed_or_none_is_resumed(tmp_path):
    record(tmp_path, seed=4)
    record(tmp_path, seed=4, resume=True)
    record(tmp_path, resume=True)
    run = hg.Recording(tmp_path, build(), loss, samples())
    assert len(run.steps) == 9
    assert replays_to_the_bit(run)


def test_data_that_differ_at_every_look_are_resumed_with_their_stored_batches(tmp_path):
    for _ in range(2):
        model = record(tmp_path, data=Counting(), store_batches=True, resume=True)
    run = hg.Recording(tmp_path, build(), loss, Counting())
    assert len(run.steps) == 6
    assert replays_to_the_bit(run)
    assert same_weights(run.trained_model(), model)


def test_a_resumed_run_has_the_recorded_threads_and_gives_them_back(tmp_path):
    record(tmp_path)
    model = build()
    optimizer = sgd(model)
    torch.set_num_threads(2)
    try:
        with hg.Recorder(tmp_path, model, optimizer, loss, samples(), resume=True) as recorder:
            assert torch.get_num_threads() == 1
            steps(recorder, model, optimizer)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_resuming_sets_options_modes_and_what_is_frozen(tmp_path):
    first = build_batch_norm()
    first[0].requires_grad_(False)
    first[1].eval()
    record(tmp_path, model=first)

    other = build_batch_norm()
    optimizer = sgd(other, lr=torch.tensor(7.0), momentum=0.0)
    rate = optimizer.param_groups[0]["lr"]
    with hg.Recorder(tmp_path, other, optimizer, loss, samples(), resume=True) as recorder:
        assert recorder.next_step == 3
        assert same_weights(other, first)
        assert optimizer.param_groups[0]["lr"] is rate
        assert rate.item() == pytest.approx(0.1)
        assert optimizer.param_groups[0]["momentum"] == 0.8
        assert not other[0].weight.requires_grad
        assert not other[1].training
        assert other[3].training


def test_a_run_that_never_began_is_begun(tmp_path):
    """Killed between its manifest and its first checkpoint."""
    model = build()
    with hg.Recorder(tmp_path, model, sgd(model), loss, samples(), seed=4):
        pass
    for name in ("steps.jsonl", "checkpoints.jsonl"):
        (tmp_path / name).unlink()
    resumed = record(tmp_path, resume=True)
    assert same_weights(resumed, record(tmp_path / "other", seed=4))


def test_a_run_is_not_resumed_by_mistake(tmp_path):
    record(tmp_path)
    before = digest(tmp_path)
    with pytest.raises(RunExists, match=r"already holds a run \(manifest.json, steps.jsonl, checkpoints.jsonl, checkp"):
        record(tmp_path)
    assert digest(tmp_path) == before


def test_a_log_that_lost_more_than_a_checkpoint_is_told(tmp_path):
    record(tmp_path, 6, checkpoint_every=2)
    index = tmp_path / "checkpoints.jsonl"
    lines = index.read_text().splitlines(keepends=True)
    assert json.loads(lines[1])["step"] == 2
    index.write_text("".join(lines[1:]))
    (tmp_path / "steps.jsonl").write_text("")
    before = digest(tmp_path)
    with pytest.raises(hg.errors.RunDamaged, match="shorter than the checkpoints say"):
        record(tmp_path, resume=True)
    assert digest(tmp_path) == before


def masked_loss(model, batch):
    known = ~batch[1].isnan()
    return ((model(batch[0]) - batch[1].nan_to_num()).square() * known).sum(1)


def masked_too_late(model, batch):
    error = (model(batch[0]) - batch[1]).square()
    return torch.where(batch[1].isnan(), torch.zeros(()), error).sum(1)


def never_masked(model, batch):
    return (model(batch[0]) - batch[1]).square().sum(1)


def holed():
    """Targets of which some are not known."""
    x, y = samples().tensors
    targets = torch.nn.functional.one_hot(y, 3).float()
    targets[::4, 1] = torch.nan
    return TensorDataset(x, targets)


def record_holed(path, its_loss):
    model, data = build(), holed()
    optimizer = sgd(model)
    with hg.Recorder(path, model, optimizer, its_loss, data, seed=4) as recorder:
        for start in range(0, 20, 5):
            with recorder.step(range(start, start + 5)):
                optimizer.zero_grad()
                its_loss(model, data[start : start + 5]).mean().backward()
                optimizer.step()
    return hg.Recording(path, build(), its_loss, data)


def test_targets_that_the_loss_masks_may_be_nan(tmp_path):
    run = record_holed(tmp_path, masked_loss)
    values = hg.attribute(run, hg.mean_loss(holed())).values
    assert values.isfinite().all() and values.abs().max() > 0


def test_nan_that_reaches_the_gradient_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(hg.errors.NonFinite, match=r"torch\.where after the loss leaves the gradient NaN"):
        record_holed(tmp_path, masked_too_late)


@pytest.mark.parametrize("its_loss", [never_masked, lambda model, batch: model(batch[0])[99]])
def test_nan_that_is_not_masked_is_refused_before_the_first_step(tmp_path, its_loss):
    with pytest.raises(hg.errors.DataError, match=r"6 training samples hold NaN .* or have the loss mask them"):
        record_holed(tmp_path, its_loss)
    assert not any(tmp_path.iterdir())


def test_a_batch_is_stored_as_it_was_before_the_loop_took_it_apart(tmp_path):
    def popping(model, batch):
        return loss(model, [batch["x"].mul_(2), batch.pop("y")])

    class Dicts(Plain):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return {"x": x.clone(), "y": y}

    model, data = build(), Dicts()
    optimizer = sgd(model)
    with hg.Recorder(tmp_path, model, optimizer, popping, data, store_batches=True, seed=4) as recorder:
        for start in range(0, 20, 5):
            batch = default_collate([data[i] for i in range(start, start + 5)])
            with recorder.step(range(start, start + 5), batch):
                optimizer.zero_grad()
                popping(model, batch).mean().backward()
                optimizer.step()
    assert replays_to_the_bit(hg.Recording(tmp_path, build(), popping, data))
