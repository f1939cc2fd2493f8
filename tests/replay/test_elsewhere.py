"""A replay on another machine: held to what rounding explains, step by step, and refused with the likely cause."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import hydragrad as hg
from hydragrad.errors import RecordingMismatch, ReplayMismatch
from hydragrad.replay import recording as opening
from hydragrad.replay.changed_run import Change, ChangedRun
from hydragrad.replay.elsewhere import DRIFT_TOLERANCE
from recording.toys import Plain, build, build_batch_norm, loss, samples, sgd, train
from recording.toys import drift_of as through

EXPLAINS = r"rounding on another machine explains up to \d"


@pytest.fixture
def moved(monkeypatch):
    """From when it is called on, this is another machine."""
    here = opening.this_machine

    def move():
        monkeypatch.setattr(opening, "this_machine", lambda device: here(device) | {"processor": "abacus"})

    return move


def opened(path, model, train_set=None, *, loss=loss):
    with pytest.warns(UserWarning, match="not the machine"):
        return hg.Recording(path, model, loss, samples() if train_set is None else train_set)


@pytest.fixture
def far(tmp_path, moved):
    """The toy's run, seen from another machine."""
    train(tmp_path / "run", build(), checkpoint_every=6)
    moved()
    return opened(tmp_path / "run", build())


def forge(run, step, **changes):
    run.steps[step] = dataclasses.replace(run.steps[step], **changes)


# --- states


def test_another_loss_is_refused_at_the_first_step(tmp_path, moved):
    train(tmp_path / "run", build())
    moved()
    with (
        pytest.warns(UserWarning, match="not the machine"),
        pytest.raises(RecordingMismatch, match=f"first step .*step 0 gives another state .*{EXPLAINS}"),
    ):
        hg.Recording(tmp_path / "run", build(), lambda model, batch: loss(model, batch) * 1.001, samples())


def test_a_state_that_jumps_is_refused_at_its_step(far):
    forge(far, 7, state=far.steps[7].state * 1.001)
    with pytest.raises(ReplayMismatch, match=rf"step 7 gives another state .*9.9e-04, and {EXPLAINS}.*clipping"):
        through(far)


@pytest.mark.parametrize("curvature", ["none", "hessian", "ggn"])
def test_every_curvature_refuses_it(far, curvature):
    forge(far, 7, state=far.steps[7].state * 1.001)
    with pytest.raises(ReplayMismatch, match="step 7"):
        hg.attribute(far, hg.mean_loss(samples(4)), curvature=curvature)


@pytest.mark.parametrize("curvature", ["none", "hessian"])
def test_hypergradients_refuse_it(far, curvature):
    forge(far, 7, state=far.steps[7].state * 1.001)
    with pytest.raises(ReplayMismatch, match="step 7"):
        hg.hypergradients(far, samples=[1, 2], curvature=curvature)


def test_a_changed_run_is_held_up_to_the_change(far):
    run = ChangedRun(far, Change(weights={far.steps[9].indices[0]: 0.0}))
    first = next(record.step for record in far.steps if far.steps[9].indices[0] in record.indices)
    forge(far, first, state=1.0)
    assert len(list(run_to_end(run))) == len(far.steps) + 1
    if first:
        forge(far, first - 1, state=1.0)
        with pytest.raises(ReplayMismatch, match=f"step {first - 1}"):
            list(run_to_end(run))


def run_to_end(run):
    with run.replay() as replay:
        yield from run.repeat(replay)


def test_a_counterfactual_of_other_data_is_refused(tmp_path, moved):
    data = Plain()
    train(tmp_path / "run", build(), data)
    moved()
    run = opened(tmp_path / "run", build(), Plain())
    run.train_set.y[run.steps[2].indices[0]] += 1
    run.train_set.y %= 3
    with pytest.raises(ReplayMismatch, match="holds other data than it was trained on"):
        hg.counterfactual(run, [[3]], hg.mean_loss(samples(5)))


class Own(Dataset):
    """Labels that a loop may train on without showing its batches."""

    def __init__(self, y):
        self.x, self.y = torch.randn(200, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64), y

    def __len__(self):
        return 200

    def __getitem__(self, index):
        return self.x[index], self.y[index]


def test_labels_that_changed_are_refused_where_the_loop_showed_no_batch(tmp_path, moved):
    y = torch.arange(200) % 3
    model, data = build().double(), Own(y)
    optimizer = sgd(model)
    order = [torch.randperm(200, generator=torch.Generator().manual_seed(epoch)).split(20) for epoch in range(2)]
    with hg.Recorder(tmp_path / "run", model, optimizer, loss, data) as recorder:
        for indices in (part for epoch in order for part in epoch):
            with recorder.step(indices):
                optimizer.zero_grad()
                loss(model, (data.x[indices], y[indices])).mean().backward()
                optimizer.step()
    moved()
    first = next(i for i in order[0][4].tolist() if i not in recorder.fingerprint["items"])
    other = y.clone()
    other[first] = (other[first] + 1) % 3
    run = opened(tmp_path / "run", build().double(), Own(other))
    with pytest.raises(ReplayMismatch, match=r"step 4 .*explains up to \de?.*The data or labels, the loss or the code"):
        through(run)


def test_a_replay_that_does_something_else_than_the_run_is_refused(far):
    with far.replay() as replay:
        replay.trajectory.restore(far.initial)
        for record in far.steps[:4]:
            replay.advance(record, far.batches(record))
        next(iter(replay.trajectory.parameters.values())).mul_(1.0001)
        with pytest.raises(ReplayMismatch, match=f"step 4 gives another state .*{EXPLAINS}"):
            replay.advance(far.steps[4], far.batches(far.steps[4]))


# --- losses


def test_a_loss_other_than_the_reported_one_is_refused(far):
    forge(far, 8, loss=far.steps[8].loss * 1.001)
    with pytest.raises(ReplayMismatch, match=rf"step 8 gives another loss than the loop reported .*{EXPLAINS}"):
        through(far)


def test_losses_that_are_no_losses_of_steps_are_left_alone(far):
    mean = 0.0
    for step, record in enumerate(list(far.steps)):
        mean += (record.loss - mean) / (step % 5 + 1)
        forge(far, step, loss=mean if step % 5 else record.loss)
    assert through(far) == 0.0
    forge(far, 8, loss=far.steps[8].loss * 1.001)
    assert through(far) == 0.0


# --- checkpoints


def test_drift_that_rounding_explains_has_a_limit(far):
    with far.replay() as replay:
        replay.trajectory.restore(far.checkpoint(6))
        for value in replay.trajectory.parameters.values():
            value.mul_(1 + 2 * DRIFT_TOLERANCE)
        replay.trajectory.restored = 0
        with pytest.raises(ReplayMismatch, match=r"Rounding took .* before step 6 1.0e-01 .* more than 0.05"):
            replay.check_against(far.checkpoint(6))


@pytest.mark.parametrize(
    ("part", "name"),
    [("parameters", "weights"), ("buffers", "buffers"), ("optimizer", "the optimizer's momentum_buffer")],
)
def test_all_of_a_checkpoint_is_compared(tmp_path, moved, part, name):
    train(tmp_path / "run", build_batch_norm(), checkpoint_every=6)
    moved()
    run = opened(tmp_path / "run", build_batch_norm())
    recorded = run.checkpoint(6)
    values = getattr(recorded, part)
    for value in values.values():
        value = value["momentum_buffer"] if part == "optimizer" else value
        if value.is_floating_point():
            value.mul_(1.01)
    with run.replay() as replay:
        replay.trajectory.restore(run.initial)
        for record in run.steps[:6]:
            replay.advance(record, run.batches(record))
        with pytest.raises(ReplayMismatch, match=f"replayed {name} before step 6 differ .*{EXPLAINS}"):
            replay.check_against(recorded)


# --- batches


class Rounded(Plain):
    """Data that a machine rounds otherwise: by a bit."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def __getitem__(self, index):
        return self.x[index] * self.by, self.y[index]


def test_data_that_round_otherwise_are_accepted_with_a_warning(tmp_path, moved):
    train(tmp_path / "run", build(), Rounded(1.0))
    moved()
    run = opened(tmp_path / "run", build(), data := Rounded(1.0))
    data.by = 1 + 2.0**-22
    with run.replay() as replay, pytest.warns(UserWarning, match="Floating-point data of step 1 differ to the bit"):
        replay.trajectory.restore(run.initial)
        replay.advance(run.steps[0], opened_batches(run, 0, data))
        replay.advance(run.steps[1], run.batches(run.steps[1]))


def opened_batches(run, step, data):
    by, data.by = data.by, 1.0
    try:
        return run.batches(run.steps[step])
    finally:
        data.by = by


def test_other_data_than_fetched_first_are_refused_on_any_machine(tmp_path, moved):
    train(tmp_path / "run", build(), Rounded(1.0))
    moved()
    run = opened(tmp_path / "run", build(), data := Rounded(1.0))
    data.by = 1 + 2.0**-22
    with pytest.raises(ReplayMismatch, match=r"The batch of step 0 .*holds other data"):
        run.batches(run.steps[0])


def test_data_that_no_code_makes_are_compared_to_the_bit(far):
    far.train_set.tensors[0].mul_(1 + 2.0**-22)
    with pytest.raises(ReplayMismatch, match=r"The batch of step 1 .*holds other data"):
        far.batches(far.steps[1])


# --- real other rounding

RECORD = """
import sys
import torch
import hydragrad as hg
from replay.test_elsewhere import data, loss, network
model = network()
with open(sys.argv[1] + ".capability", "w") as file:
    file.write(torch.backends.cpu.get_cpu_capability())
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
hg.train(model, loss, data(), optimizer, epochs=2, batch_size=20, out=sys.argv[1], checkpoint_every=10)
"""


def network():
    """Its first bias has no gradient but rounding, which AdamW makes a step of full size of."""
    torch.manual_seed(0)
    hidden = nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30), nn.ReLU())
    return nn.Sequential(hidden, nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 3))


def data():
    x = (torch.arange(200 * 40).reshape(200, 40) * 2654435761 % 1009).float() / 1009 - 0.5
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


PLAIN = ("DEFAULT", "NO AVX")
"""What torch calls kernels without vector instructions: older releases, on x86, the second."""


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() in PLAIN, reason="there are no other kernels here")
def test_other_kernels_are_rounding_and_other_labels_are_not(tmp_path):
    path = tmp_path / "run"
    there = os.environ | {"ATEN_CPU_CAPABILITY": "default", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", RECORD, str(path)], check=True, env=there)
    assert (tmp_path / "run.capability").read_text() in PLAIN
    with pytest.warns(UserWarning, match=rf"vector instructions: '({'|'.join(PLAIN)})' then"):
        run = hg.Recording(path, network(), loss, data())
    scores = hg.attribute(run, hg.mean_loss(data()), curvature="none")
    assert 1e-9 < scores.evidence.replay_drift < 0.05
    run.train_set.tensors[1][run.steps[12].indices[0]] += 1
    run.train_set.tensors[1].remainder_(3)
    with pytest.raises(ReplayMismatch, match="holds other data"):
        through(run)
    for step, record in enumerate(list(run.steps)):
        forge(run, step, micro_batches=tuple(dataclasses.replace(part, digest=None) for part in record.micro_batches))
    run._seen_digests.clear()
    with pytest.raises(ReplayMismatch, match=rf"gives another .*{EXPLAINS}"):
        through(run)
