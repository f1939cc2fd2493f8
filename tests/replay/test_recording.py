"""Opening a run: on another machine, with other threads, after every kind of loss; and never touching the user's."""

import dataclasses
import shutil

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.errors import RecordingMismatch, ReplayMismatch, RunDamaged
from hydragrad.runs.manifest import read_manifest, write_manifest
from hydragrad.runs.stored_batches import batch_path
from recording.toys import STEPS, build, digest, loss, same_weights, samples, sgd, take_step, train
from recording.toys import drift_of as through


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("recorded") / "run"
    train(path, checkpoint_every=6)
    return path


@pytest.fixture
def run(recorded, tmp_path):
    return shutil.copytree(recorded, tmp_path / "run")


def opened(path, **changes):
    return hg.Recording(path, **({"model": build(), "loss": loss, "train_set": samples()} | changes))


def test_segments_reach_from_checkpoint_to_checkpoint(recorded):
    run = opened(recorded)
    assert run.segments == [(0, 6), (6, 12), (12, 18), (18, 20)]
    assert run.has_checkpoint(20)
    assert run.final.step == 20
    assert run.initial.step == 0


# --- another machine


def elsewhere(path, **facts):
    manifest = read_manifest(path)
    write_manifest(path, dataclasses.replace(manifest, machine=manifest.machine | facts))


@pytest.mark.parametrize("fact", ["torch", "processor", "device", "vector instructions"])
def test_each_fact_that_decides_the_bits_is_warned_of(run, fact):
    elsewhere(run, **{fact: "abacus"})
    with pytest.warns(UserWarning, match=f"not the machine of the recording .{fact}: 'abacus' then"):
        assert not opened(run).same_machine


def test_what_does_not_decide_the_bits_is_not(run):
    elsewhere(run, python="2.7", hydragrad="0.0.1")
    assert opened(run).same_machine


def test_a_run_made_on_two_machines_is_replayed_to_the_bit_on_neither(tmp_path):
    torch.manual_seed(0)
    data, model = TensorDataset(torch.randn(20, 2), torch.randint(2, (20,))), nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    calls = []

    def monitor(_):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {}

    def train(**options):
        options = {"epochs": 3, "batch_size": 5, "out": tmp_path / "run", "monitor": monitor} | options
        return hg.train(model, cross_entropy, data, optimizer, **options)

    with pytest.raises(KeyboardInterrupt):
        train()
    elsewhere(tmp_path / "run", processor="abacus")
    with pytest.warns(UserWarning, match="abacus"):
        assert not train(resume=True).same_machine
    manifest = read_manifest(tmp_path / "run")
    assert [machine["processor"] for machine in manifest.resumed_on] != ["abacus"]
    assert len(manifest.resumed_on) == 1
    # Seen from the first machine, the second one is the other.
    here = manifest.machine | {"processor": manifest.resumed_on[0]["processor"]}
    there = [here | {"processor": "slide rule"}]
    write_manifest(tmp_path / "run", dataclasses.replace(manifest, machine=here, resumed_on=there))
    with pytest.warns(UserWarning, match="slide rule"):
        assert not hg.Recording(tmp_path / "run", model, cross_entropy, data).same_machine


def cross_entropy(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def rounded_otherwise(by):
    """The loss as another machine would round it."""
    return lambda model, batch: loss(model, batch) * (1 + by)


def drifted(path, by):
    elsewhere(path, processor="abacus")
    with pytest.warns(UserWarning, match="not the machine"):
        return opened(path, loss=rounded_otherwise(by))


def test_drift_is_measured_segment_by_segment(run):
    drift = through(drifted(run, 1e-6))
    assert 1e-9 < drift < 1e-5
    assert hg.attribute(
        drifted(run, 1e-6), hg.mean_loss(samples(4)), curvature="none"
    ).evidence.replay_drift == pytest.approx(drift, rel=1e-6)


def test_on_the_same_machine_any_difference_names_its_step(recorded):
    run = opened(recorded)
    run.loss = rounded_otherwise(1e-5)
    with pytest.raises(ReplayMismatch, match=r"Replaying step \d+ gives another state than was recorded .relative"):
        through(run)


def test_weights_that_differ_at_a_checkpoint_are_an_error(recorded):
    run = opened(recorded)
    with run.replay() as replay:
        replay.trajectory.restore(run.initial)
        with pytest.raises(ReplayMismatch, match=r"before step 6 differ .*not seeded, or weights were changed between"):
            replay.check_against(run.checkpoint(6))


# --- threads


def test_replay_runs_with_the_recorded_threads(run):
    elsewhere(run, threads=2)
    opening = opened(run)
    with opening.replay():
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1
    with pytest.raises(KeyboardInterrupt), opening.replay():
        raise KeyboardInterrupt
    assert torch.get_num_threads() == 1


# --- damage


def test_without_any_checkpoint_nothing_opens(run):
    (run / "checkpoints.jsonl").write_text("")
    with pytest.raises(RunDamaged, match="does not list the first checkpoint"):
        opened(run)


def test_a_checkpoint_that_is_gone_is_named(run):
    (run / "checkpoints" / "step-00000006.safetensors").unlink()
    with pytest.raises(RunDamaged, match=r"step-00000006.safetensors is missing"):
        through(opened(run))


def test_every_altered_byte_of_a_checkpoint_is_noticed(run):
    file = run / "checkpoints" / "step-00000020.safetensors"
    content = bytearray(file.read_bytes())
    for place in range(0, len(content), 1009):
        content[place] ^= 1
        file.write_bytes(content)
        with pytest.raises(RunDamaged, match="not the file that was written"):
            opened(run).checkpoint(20)
        content[place] ^= 1


def test_a_log_that_ends_before_its_checkpoints_is_named(run):
    manifest = read_manifest(run)
    write_manifest(run, dataclasses.replace(manifest, status="running", steps=None))
    lines = (run / "steps.jsonl").read_text().splitlines(keepends=True)
    (run / "steps.jsonl").write_text("".join(lines[:10]))
    with (
        pytest.warns(UserWarning, match="last complete step, 10"),
        pytest.raises(RunDamaged, match="ends at step 10, before the checkpoint of step 20"),
    ):
        opened(run)


def test_a_run_without_a_complete_step_says_so(tmp_path):
    model = build()
    with hg.Recorder(tmp_path, model, sgd(model), loss, samples()):
        pass
    with pytest.raises(RunDamaged, match="holds no complete step, so there is nothing to replay"):
        opened(tmp_path)


def test_an_altered_stored_batch_is_named(tmp_path):
    model = build()
    optimizer = sgd(model)
    with hg.Recorder(tmp_path, model, optimizer, loss, samples(), store_batches=True) as recorder:
        for _ in range(4):
            with recorder.step([0, 1], samples()[:2]):
                optimizer.zero_grad()
                loss(model, samples()[:2]).mean().backward()
                optimizer.step()
    file = batch_path(tmp_path, 2)
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    before, run = digest(tmp_path), opened(tmp_path)
    with pytest.raises(RunDamaged, match=r"step-00000002.safetensors can't be read .its content is not what was"):
        through(run)
    assert digest(tmp_path) == before


def test_leftovers_of_a_kill_are_no_hindrance(run):
    for name in ("manifest.json.tmp", "checkpoints/step-00000020.safetensors.tmp"):
        (run / name).write_bytes(b"half")
    assert len(opened(run).steps) == STEPS
    assert len(train(run, checkpoint_every=6, resume=True).steps) == STEPS


# --- another loss or model of the same shapes


def test_a_loss_of_another_form_is_refused(recorded):
    with pytest.raises(RecordingMismatch, match=r"can't be repeated with this model and loss: .*shape \(5,\)"):
        opened(recorded, loss=lambda model, batch: loss(model, batch).mean())


def test_a_model_that_draws_otherwise_is_refused(recorded):
    model = build()
    model[2] = torch.nn.Dropout(0.4)
    with pytest.raises(RecordingMismatch, match=r"p of 2 was 0.3 and is 0.4 now"):
        opened(recorded, model=model)


# --- what is the user's stays the user's


def test_model_and_files_are_never_changed(recorded):
    before, model = digest(recorded), build().eval()
    model[0].weight.requires_grad_(False)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    run = opened(recorded, model=model)
    through(run)
    trained = run.trained_model()

    assert digest(recorded) == before
    assert not model.training
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, True, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())
    assert not trained.training
    assert not any(parameter.requires_grad for parameter in trained.parameters())
    assert not same_weights(trained, model)


def test_a_model_under_a_recorder_can_be_opened_at_once(tmp_path):
    model = build()
    optimizer = sgd(model)
    with hg.Recorder(tmp_path, model, optimizer, loss, samples()) as recorder:
        take_step(recorder, model, optimizer, [0, 1], samples()[:2])
        with pytest.warns(UserWarning, match="was not completed"):
            run = opened(tmp_path, model=model)
        assert same_weights(run.trained_model(), model)
        take_step(recorder, model, optimizer, [0, 1], samples()[:2])
    assert len(opened(tmp_path).steps) == 2
