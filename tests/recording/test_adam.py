"""Runs of Adam and AdamW: resumed to the same bits, replayed to the bit, and refused to another optimizer."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

import hydragrad as hg
from hydragrad.errors import RecordingMismatch
from hydragrad.runs.manifest import read_manifest
from recording.killing import OPTIMIZERS, Augmented, Kill, killed, users_loop
from recording.toys import build, build_batch_norm, loss, replays_to_the_bit, same_weights, samples, take_step

ADAPTIVE = sorted(set(OPTIMIZERS) - {"sgd"})


@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_killed_loop_ends_at_the_same_bits(tmp_path, name):
    straight = users_loop(tmp_path / "straight", optimizer_name=name)
    killed(users_loop, tmp_path / "run", stop=Kill("in", 7), optimizer_name=name)
    resumed = users_loop(tmp_path / "run", optimizer_name=name, resume=True)
    assert same_weights(resumed, straight)
    assert (tmp_path / "run" / "steps.jsonl").read_text() == (tmp_path / "straight" / "steps.jsonl").read_text()
    assert replays_to_the_bit(hg.Recording(tmp_path / "run", build_batch_norm(), loss, Augmented()))


def test_the_state_of_the_optimizer_is_that_of_the_run(tmp_path):
    """Moments and step numbers come back into the user's own optimizer."""

    def one(path, resume, steps):
        model = build()
        optimizer = AdamW(model.parameters(), lr=0.05, amsgrad=True)
        data, torch_seed = samples(), 3
        with hg.Recorder(path, model, optimizer, loss, data, resume=resume, checkpoint_every=1, seed=torch_seed) as r:
            for step in range(r.next_step, steps):
                indices = [(3 * step + i) % len(data) for i in range(5)]
                take_step(r, model, optimizer, indices, data[indices])
        return optimizer

    straight = one(tmp_path / "straight", False, 6)
    one(tmp_path / "run", False, 4)
    resumed = one(tmp_path / "run", True, 6)
    for ours, theirs in zip(resumed.state.values(), straight.state.values(), strict=True):
        assert ours.keys() == theirs.keys() == {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
        assert all(torch.equal(ours[entry], theirs[entry]) for entry in ours)
        assert ours["step"].item() == 6


@pytest.mark.parametrize("other", [SGD, Adam])
def test_a_run_is_not_resumed_with_another_optimizer(tmp_path, other):
    users_loop(tmp_path, optimizer_name="adamw", epochs=1)
    assert read_manifest(tmp_path).optimizers == ["torch.optim.adamw.AdamW"]
    model = build_batch_norm()
    optimizer = other(model.parameters(), lr=0.1)
    expected = rf"optimizers=\['torch.optim.adamw.AdamW'\], got \['{other.__module__}.{other.__name__}'\]"
    recorder = hg.Recorder(tmp_path, model, optimizer, loss, Augmented(), resume=True)
    with pytest.raises(RecordingMismatch, match=expected), recorder:
        pass


def test_moments_from_before_the_recording_belong_to_the_run(tmp_path):
    model, data = build(), samples()
    optimizer = Adam(model.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        loss(model, data[:5]).mean().backward()
        optimizer.step()
    with hg.Recorder(tmp_path, model, optimizer, loss, data) as recorder:
        for _ in range(4):
            take_step(recorder, model, optimizer, [1, 2, 5], data[[1, 2, 5]])
    run = hg.Recording(tmp_path, nn.Sequential(*build()), loss, data)
    assert replays_to_the_bit(run)
    assert run.initial.optimizer["0.weight"]["step"].item() == 3
    assert run.final.optimizer["0.weight"]["step"].item() == 7
