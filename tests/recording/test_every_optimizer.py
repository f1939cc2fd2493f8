"""Runs of every optimizer, in float32 under torch's own kernels: replayed to the bit, resumed, tracked, retrained."""

from contextlib import suppress

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

import hydragrad as hg
from hydragrad.steps import RULES
from hydragrad.torch_release import MUON
from own_optimizers import Belief, Scaled
from recording.toys import build, loss, replays_to_the_bit, samples, take_step

RATES = {"Adadelta": 0.5, "Adagrad": 0.05, "ASGD": 0.1, "SGD": 0.1, "Muon": 0.02, "Adafactor": 0.05}
TORCHS = [kind for kind in RULES if kind not in (Belief, Scaled)]
STEPS = 8


@pytest.fixture(params=[*TORCHS, Belief], ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


def make(kind, model: nn.Module, foreach: bool = True):
    matrices_only = kind is MUON
    trained = [p for p in model.parameters() if p.dim() == 2 or not matrices_only]
    kernel = {} if kind in (MUON, Belief) else {"foreach": foreach}
    return kind(trained, lr=RATES.get(kind.__name__, 0.01), weight_decay=0.05, **kernel)


def begin(kind):
    """Model and optimizer that have made two steps before the recording."""
    torch.manual_seed(0)
    model, data = build(), samples()
    optimizer = make(kind, model)
    for indices in ([0, 1], [2, 3]):
        optimizer.zero_grad()
        loss(model, data[indices]).mean().backward()
        optimizer.step()
    return model, optimizer


def batches():
    return [[(3 * step + i) % len(samples()) for i in range(5)] for step in range(STEPS)]


def record(kind, path, stop=STEPS, **options):
    (model, optimizer), data = begin(kind), samples()
    scheduler = StepLR(optimizer, 3, 0.5)
    options |= {"checkpoint_every": 3, "seed": 0}
    with hg.Recorder(path, model, optimizer, loss, data, scheduler=scheduler, **options) as recorder:
        for step in range(recorder.next_step, stop):
            take_step(recorder, model, optimizer, batches()[step], data[batches()[step]])
            scheduler.step()
    return model, optimizer


def opened(path):
    return hg.Recording(path, build(), loss, samples())


def query():
    return hg.mean_loss(samples(9))


def test_a_run_is_replayed_to_the_bit_and_resumed_at_the_same_bits(tmp_path, kind):
    model, optimizer = record(kind, tmp_path / "straight")
    record(kind, tmp_path / "run", stop=5)
    resumed, again = record(kind, tmp_path / "run", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))
    for ours, theirs in zip(again.state.values(), optimizer.state.values(), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(theirs[name])) for name in ours)
    assert replays_to_the_bit(opened(tmp_path / "run"))


def track(kind, store, stop=STEPS, **options):
    (model, optimizer), data = begin(kind), samples()
    scheduler = StepLR(optimizer, 3, 0.5)
    with suppress(KeyboardInterrupt), hg.Tracker(model, optimizer, loss, data, store=store, **options) as tracker:
        for step, indices in enumerate(batches()):
            if step == stop:
                raise KeyboardInterrupt
            with tracker.step(indices):
                optimizer.zero_grad()
                loss(model, data[indices]).mean().backward()
                optimizer.step()
            scheduler.step()
    return tracker


def test_a_tracker_gives_what_the_recorded_run_gives(tmp_path, kind):
    """The store is interrupted on the way: the ages of the parameters come back from its file."""
    record(kind, tmp_path / "run")
    expected = hg.attribute(opened(tmp_path / "run"), query()).values
    track(kind, tmp_path / "store", stop=5)
    tracker = track(kind, tmp_path / "store", resume=True)
    rows = hg.hypergradients(opened(tmp_path / "run"), store=tmp_path / "rows")
    assert expected.abs().max() > 1e-4
    for found in (tracker, rows):
        torch.testing.assert_close(found.contributions(query()).values, expected, rtol=1e-3, atol=1e-6)


def test_retraining_without_a_sample_is_retraining_by_the_same_optimizer(tmp_path, kind):
    record(kind, tmp_path / "run")
    same, without = (
        hg.counterfactual(opened(tmp_path / "run"), [[4]], query(), weight=weight, keep=False).values
        for weight in (1, 0)
    )
    assert (same == 0).all() and (without != 0).all()


def test_other_processes_know_an_optimizer_that_was_registered_here(tmp_path):
    record(Belief, tmp_path / "run")
    run, groups = opened(tmp_path / "run"), [[4], [5, 7]]
    here, elsewhere = (hg.counterfactual(run, groups, query(), workers=workers, keep=False) for workers in (1, 2))
    assert (here.values != 0).all() and torch.equal(here.values, elsewhere.values)
