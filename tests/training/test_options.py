"""hg.train with clipping, accumulation and autocast: ordinary loops by hand, resumed after a kill, refused by name."""

from itertools import count

import pytest
import torch
from torch import nn
from torch.optim import AdamW

import hydragrad as hg
from hydragrad.errors import RecordingMismatch
from hydragrad.randomness import FORWARD, stream_seed
from hydragrad.training.loop import Plan, fit
from recording.killing import Kill, killed
from recording.toys import Plain, build, build_batch_norm, log_of, loss, replays_to_the_bit, same_weights, samples

OPTIONS = {
    "clipped": {"clip_norm": 0.2},
    "accumulated": {"accumulate": 2},
    "all": {"accumulate": 3, "clip_norm": 0.2, "autocast": torch.bfloat16},
}


def trained(path, model=None, **options):
    model = build_batch_norm() if model is None else model
    optimizer = AdamW(model.parameters(), lr=0.02)
    data = options.pop("data", samples())
    return hg.train(model, loss, data, optimizer, **{"epochs": 3, "batch_size": 4, "seed": 5, "out": path} | options)


def trained_until_killed(path, items, **options):
    """Killed while it fetches one of its items."""
    fetched = count()
    kill = Kill("item", items)
    return trained(path, data=Plain(lambda: kill("item", next(fetched))), **options)


@pytest.mark.parametrize("name", OPTIONS)
def test_it_equals_a_loop_written_by_hand(tmp_path, name):
    options = OPTIONS[name]
    model, other = build(), build()
    run = trained(tmp_path, model, **options)
    optimizer = AdamW(other.parameters(), lr=0.02)
    for record in run.steps:
        optimizer.zero_grad()
        size = len(record.indices)
        for number, part in enumerate(record.micro_batches):
            torch.manual_seed(stream_seed(5, record.step, FORWARD, number))
            with torch.autocast("cpu", torch.bfloat16, enabled="autocast" in options):
                losses = loss(other, samples()[part.indices])
            (losses.mean() if len(part) == size else losses.sum() / size).backward()
        if "clip_norm" in options:
            nn.utils.clip_grad_norm_(other.parameters(), options["clip_norm"])
        optimizer.step()
    assert same_weights(model, other)
    assert replays_to_the_bit(run)


def test_the_last_step_of_an_epoch_has_what_is_left(tmp_path):
    run = trained(tmp_path, accumulate=4)
    assert [[len(part) for part in record.micro_batches] for record in run.steps[:2]] == [[4, 4, 4, 4], [4, 2]]


def test_accumulating_is_the_larger_batch_to_rounding(tmp_path):
    small, large = (nn.Linear(4, 3).double() for _ in range(2))
    large.load_state_dict(small.state_dict())
    data = torch.utils.data.TensorDataset(samples().tensors[0].double(), samples().tensors[1])
    for model, options in ((small, {"batch_size": 4, "accumulate": 3}), (large, {"batch_size": 12})):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        hg.train(model, loss, data, optimizer, epochs=2, out=tmp_path / str(options["batch_size"]), **options)
    torch.testing.assert_close(small.weight, large.weight, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("items", [90, 97, 120])
def test_a_killed_run_is_resumed_to_the_same_bits(tmp_path, items):
    options = OPTIONS["all"] | {"checkpoint_every": 2}
    killed(trained_until_killed, tmp_path / "killed", items, **options)
    trained(tmp_path / "killed", data=Plain(), resume=True, **options)
    trained(tmp_path / "straight", data=Plain(), **options)
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "straight")


@pytest.mark.parametrize("change", [{"accumulate": 2}, {"clip_norm": None}, {"autocast": None}], ids=str)
def test_a_run_is_not_resumed_with_another_option(tmp_path, change):
    trained(tmp_path, **OPTIONS["all"])
    with pytest.raises(RecordingMismatch, match=next(iter(change))):
        trained(tmp_path, resume=True, **OPTIONS["all"] | change)


REFUSED = {"accumulate": (0, "at least 1"), "clip_norm": (0.0, "above 0"), "autocast": (torch.float16, "scaler")}


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_make_no_sense_are_refused(tmp_path, name):
    value, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        trained(tmp_path, **{name: value})


def test_the_loop_without_observers_is_the_same():
    model, plan = build(), Plan(epochs=2, batch_size=4, accumulate=2, clip_norm=0.2, seed=5)
    fit(model, loss, samples(), AdamW(model.parameters(), lr=0.02), plan)
    assert plan.passes(22) == 12 and plan.steps(22) == 6


@pytest.mark.parametrize("curvature", ["none", "hessian"])
def test_everything_else_works_with_it(tmp_path, curvature):
    run, query = trained(tmp_path, **OPTIONS["all"]), hg.mean_loss(samples())
    scores = hg.attribute(run, query, curvature=curvature)
    assert scores.values.isfinite().all() and scores.values.abs().max() > 0
    evidence = hg.verify(run, scores, groups=2, size=3)
    assert evidence.checks
