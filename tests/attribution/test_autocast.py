"""Runs under autocast to bfloat16: repeated to the bit, differentiated in float32 at the recorded weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, AdamW
from torch.utils.data import TensorDataset

import hydragrad as hg
from attribution import oracle
from hydragrad.errors import Unsupported
from hydragrad.randomness import seeded

SAMPLES, BATCH, EPOCHS = 24, 6, 3


def build(normalised=False):
    with seeded(3):
        middle = [nn.BatchNorm1d(16)] if normalised else []
        return nn.Sequential(nn.Linear(8, 16), *middle, nn.GELU(), nn.Linear(16, 3))


def samples(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(
        torch.randn(SAMPLES, 8, generator=generator), torch.randint(3, (SAMPLES,), generator=generator)
    )


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def batches():
    for epoch in range(EPOCHS):
        order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(epoch))
        yield from (part.tolist() for part in order.split(BATCH))


def train(model, optimizer, watcher, *, late=0):
    for number, indices in enumerate(batches()):
        with watcher.step(indices) as step:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=number >= late):
                losses = step.losses(samples()[indices])
            losses.mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()


def sgd(model):
    return SGD(model.parameters(), lr=0.1, momentum=0.8)


def adamw(model):
    return AdamW(model.parameters(), lr=0.01)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = {}

    def get(make, normalised=False):
        key = make.__name__, normalised
        if key not in made:
            path, model = tmp_path_factory.mktemp("half") / "run", build(normalised)
            optimizer = make(model)
            with hg.Recorder(path, model, optimizer, loss, samples()) as recorder:
                train(model, optimizer, recorder)
            made[key] = hg.Recording(path, build(normalised), loss, samples())
        return made[key]

    return get


def test_the_run_is_repeated_to_the_bit_and_is_not_the_one_without_autocast(runs):
    run = runs(sgd)
    assert {part.autocast for record in run.steps for part in record.micro_batches} == {("cpu", "bfloat16")}
    model, plain = build(), build()
    for trained, kind in ((model, torch.bfloat16), (plain, None)):
        optimizer = sgd(trained)
        for indices in batches():
            optimizer.zero_grad()
            with torch.autocast("cpu", kind or torch.bfloat16, enabled=kind is not None):
                losses = loss(trained, samples()[indices])
            losses.mean().backward()
            optimizer.step()
    assert all(torch.equal(run.final.parameters[name], value) for name, value in model.named_parameters())
    assert not torch.equal(run.final.parameters["0.weight"], plain[0].weight)


def test_without_curvature_it_is_the_sum_of_float32_gradients_at_the_recorded_weights(runs):
    run, query = runs(sgd), hg.mean_loss(samples(2))
    scores = hg.attribute(run, query)
    expected, velocity, tangent = {}, torch.zeros(SAMPLES, 0), None
    model = build()
    with run.replay() as replay:
        replay.trajectory.restore(run.initial)
        rows = torch.zeros(SAMPLES, sum(p.numel() for p in model.parameters()))
        velocity, tangent = torch.zeros_like(rows), torch.zeros_like(rows)
        for record in run.steps:
            model.load_state_dict(replay.trajectory.parameters)
            gradients = torch.zeros_like(rows)
            for index in record.indices:
                single = loss(model, samples()[[index]]).sum() / BATCH
                gradients[index] = torch.cat([g.flatten() for g in torch.autograd.grad(single, model.parameters())])
            velocity = 0.8 * velocity + gradients
            tangent = tangent - 0.1 * velocity
            replay.advance(record, run.batches(record))
        model.load_state_dict(replay.trajectory.parameters)
    held_out = loss(model, samples(2)[:]).mean()
    slope = torch.cat([g.flatten() for g in torch.autograd.grad(held_out, model.parameters())])
    expected = -(tangent @ slope)
    assert oracle.relative(scores.values[0], expected.double()) < 1e-5


@pytest.mark.parametrize("curvature", ["none", "hessian", "ggn"])
@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "batch_norm"])
@pytest.mark.parametrize("make", [sgd, adamw])
def test_scores_say_how_far_the_two_precisions_are_apart(runs, make, normalised, curvature):
    scores = hg.attribute(runs(make, normalised), hg.mean_loss(samples(2)), curvature=curvature)
    (note,) = [note for note in scores.evidence.notes if note.kind == "autocast"]
    assert "bfloat16" in note.text and "without autocast" in note.text
    compared = {each.what: each for each in scores.evidence.compared}
    losses = compared["losses without autocast with those that trained"]
    assert losses.times == len(runs(make, normalised).steps) and 0 < losses.gap < 0.02
    exact = compared["derivatives of losses with the gradient that trained"]
    assert exact.times >= 8 and exact.gap < 1e-3


@pytest.mark.parametrize("curvature", ["none", "hessian"])
@pytest.mark.parametrize("make", [sgd, adamw])
def test_rows_give_what_the_sweep_gives(runs, make, curvature):
    run, query = runs(make), hg.mean_loss(samples(2))
    expected = hg.attribute(run, query, curvature=curvature, smoothing=0.1).values
    rows = hg.hypergradients(run, curvature=curvature, smoothing=0.1).contributions(query).values
    assert oracle.relative(rows, expected) < 1e-3
    model = build()
    optimizer = make(model)
    with hg.Tracker(model, optimizer, loss, samples(), curvature=curvature, smoothing=0.1) as tracker:
        train(model, optimizer, tracker)
    assert oracle.relative(tracker.contributions(query).values, expected) < 1e-3


def test_really_left_out_means_under_autocast(runs):
    model = build()
    optimizer = sgd(model)
    for indices in batches():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            losses = loss(model, samples()[indices])
        weights = torch.tensor([0.0 if index in (2, 5) else 1.0 for index in indices])
        (losses * weights).mean().backward()
        optimizer.step()
    held_out = loss(model, samples(2)[:]).mean().item()
    query = hg.mean_loss(samples(2))
    scores = hg.counterfactual(runs(sgd), [[2, 5]], query)
    before = hg.attribute(runs(sgd), query).query_values.item()
    assert scores.values.item() == pytest.approx(held_out - before, rel=1e-4)


def test_autocast_may_begin_late():
    tracked = []
    for late in (0, 5):
        model = build()
        optimizer = sgd(model)
        with hg.Tracker(model, optimizer, loss, samples()) as tracker:
            train(model, optimizer, tracker, late=late)
        tracked.append(tracker.contributions(hg.mean_loss(samples(2))).values)
    assert 0 < oracle.relative(*tracked) < 0.05


def test_a_tracker_that_has_no_weights_to_go_back_to_refuses_late_autocast_by_name():
    model = build()
    optimizer = sgd(model)
    with (
        pytest.raises(Unsupported, match="without autocast at the first steps and under it later"),
        hg.Tracker(model, optimizer, loss, samples()) as tracker,
    ):
        for index in range(12):  # batches of one are not compared on the way
            with tracker.step([index]) as step:
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=index > 8):
                    losses = step.losses(samples()[[index]])
                losses.mean().backward()
                optimizer.step()


def test_two_forward_passes_under_different_autocasts_are_refused(tmp_path):
    model = build()
    with (
        pytest.raises(Unsupported, match="must all run under the same autocast"),
        hg.Recorder(tmp_path / "run", model, sgd(model), loss, samples()) as recorder,
        recorder.step([0, 1]),
    ):
        model(samples()[[0, 1]][0])
        with torch.autocast("cpu", torch.bfloat16):
            model(samples()[[0, 1]][0])
