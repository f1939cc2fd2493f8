"""Several optimizers in one step: repeated, resumed, differentiated; refused by name where they overlap."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import ExponentialLR, StepLR
from torch.utils.data import TensorDataset

import hydragrad as hg
from attribution import oracle
from hydragrad.errors import StepError, Unsupported
from hydragrad.randomness import seeded, stream_seed
from recording.toys import loss, replays_to_the_bit

SAMPLES, STEPS, SEED = 15, 12, 4


def build():
    with seeded(3):
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.GELU(), nn.Dropout(0.2), nn.Linear(6, 3)).double()


def samples(seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SAMPLES, 4, generator=generator, dtype=torch.float64)
    return TensorDataset(x, torch.randint(3, (SAMPLES,), generator=generator))


def optimizers(model):
    """Matrices, vectors, and the head, each in its own way; the second has no state at first."""
    matrices = SGD([model[0].weight], lr=0.1, momentum=0.8)
    vectors = RMSprop([model[0].bias, *model[1].parameters()], lr=0.01, eps=1e-3)
    head = AdamW([{"params": [model[4].weight]}, {"params": [model[4].bias], "weight_decay": 0.0}], lr=0.01, eps=1e-3)
    return [matrices, vectors, head]


def train(model, every, watcher, *, first=0, schedulers=None, weights=None):
    schedulers = schedulers or [StepLR(every[0], 4, 0.5), ExponentialLR(every[2], 0.9)]
    for number in range(first, STEPS):
        indices = [(4 * number + i) % SAMPLES for i in range(4)]
        if weights is not None:
            torch.manual_seed(stream_seed(SEED, number))
            step_losses = loss(model, samples()[indices]) * weights[indices]
            update(model, every, number, step_losses)
        else:
            with watcher.step(indices) as step:
                update(model, every, number, step.losses(samples()[indices]))
        for scheduler in schedulers:
            scheduler.step()


def update(model, every, number, losses):
    for optimizer in every:
        optimizer.zero_grad()
    losses.mean().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    for place, optimizer in enumerate(every):
        if place != 1 or number % 3:  # the second steps at two of three steps only
            optimizer.step()


def record(path, **options):
    model = build()
    every = optimizers(model)
    schedulers = [StepLR(every[0], 4, 0.5), ExponentialLR(every[2], 0.9)]
    options = {"seed": SEED, "checkpoint_every": 5, "scheduler": schedulers, **options}
    with hg.Recorder(path, model, every, loss, samples(), **options) as recorder:
        train(model, every, recorder, first=recorder.next_step, schedulers=schedulers)
    return hg.Recording(path, build(), loss, samples())


def test_the_run_is_repeated_to_the_bit(tmp_path):
    run = record(tmp_path)
    assert [rule.torch_class for rule in run.rules] == [SGD, RMSprop, AdamW]
    assert replays_to_the_bit(run)


def test_contributions_equal_central_differences(tmp_path):
    run = record(tmp_path)

    def held_out_loss(weights):
        model = build()
        train(model, optimizers(model), None, weights=weights)
        return loss(model.eval(), samples(2)[:]).mean().item()

    ones, h = torch.ones(SAMPLES, dtype=torch.float64), 1e-6
    direction = torch.randn(SAMPLES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    difference = (held_out_loss(ones - h * direction) - held_out_loss(ones + h * direction)) / (2 * h)
    scores = hg.attribute(run, hg.mean_loss(samples(2)), curvature="hessian", smoothing=0)
    expected = torch.tensor([difference], dtype=torch.float64)
    assert oracle.relative(scores.values @ direction, expected) < 1e-5
    weights = ones.clone()
    weights[[2, 5]] = 0
    without = hg.counterfactual(run, [[2, 5]], hg.mean_loss(samples(2))).values.item()
    assert without == pytest.approx(held_out_loss(weights) - held_out_loss(ones), rel=1e-7)


@pytest.mark.parametrize("curvature", ["none", "ggn"])
def test_every_mode_takes_it(tmp_path, curvature):
    values = hg.attribute(record(tmp_path), hg.mean_loss(samples(2)), curvature=curvature).values
    assert values.isfinite().all() and values.abs().max() > 0


def test_an_interrupted_run_is_resumed_to_the_same_bits(tmp_path):
    class Stop(Exception):
        pass

    class StopsLate:
        def __init__(self, recorder):
            self.recorder = recorder

        def step(self, indices):
            if self.recorder.next_step == 8:
                raise Stop
            return self.recorder.step(indices)

    model = build()
    every = optimizers(model)
    schedulers = [StepLR(every[0], 4, 0.5), ExponentialLR(every[2], 0.9)]
    options = {"seed": SEED, "checkpoint_every": 5, "scheduler": schedulers}
    with pytest.raises(Stop), hg.Recorder(tmp_path / "a", model, every, loss, samples(), **options) as recorder:
        train(model, every, StopsLate(recorder), schedulers=schedulers)
    record(tmp_path / "a", resume=True)
    record(tmp_path / "b")
    assert (tmp_path / "a" / "steps.jsonl").read_text() == (tmp_path / "b" / "steps.jsonl").read_text()


def test_a_parameter_of_two_optimizers_is_refused(tmp_path):
    model = build()
    every = [SGD(model.parameters(), lr=0.1), Adam([model[4].bias], lr=0.1)]
    with pytest.raises(Unsupported, match=r"belongs to one optimizer.*shape \(3,\) is in two"):
        hg.Recorder(tmp_path / "run", model, every, loss, samples())


def test_no_optimizer_is_refused(tmp_path):
    with pytest.raises(Unsupported, match="must be an optimizer, got an empty list"):
        hg.Recorder(tmp_path / "run", build(), [], loss, samples())


def test_an_optimizer_that_was_not_given_is_named(tmp_path):
    model = build()
    every = optimizers(model)
    with (
        pytest.raises(StepError, match=r"took the gradient of 4.weight into account.*Give all optimizers in a list"),
        hg.Recorder(tmp_path / "run", model, every[:2], loss, samples()) as recorder,
    ):
        train(model, every, recorder)


def test_one_optimizer_that_steps_twice_is_named(tmp_path):
    model = build()
    every = optimizers(model)
    with (
        pytest.raises(StepError, match="this one held 2"),
        hg.Recorder(tmp_path / "run", model, every, loss, samples()) as recorder,
        recorder.step(range(4)) as step,
    ):
        step.losses(samples()[:4]).mean().backward()
        for optimizer in (*every, every[0]):
            optimizer.step()


def test_rows_are_refused_by_name(tmp_path):
    model = build()
    with pytest.raises(Unsupported, match="Rows are kept under one optimizer, got 3"):
        hg.Tracker(model, optimizers(model), loss, samples())
    run = record(tmp_path)
    with pytest.raises(Unsupported, match="Rows are kept under one optimizer, and the run had 3"):
        hg.hypergradients(run)


def test_clipping_with_an_optimizer_that_never_steps_is_refused_by_attribution(tmp_path):
    model = build()
    every = optimizers(model)
    with hg.Recorder(tmp_path, model, every, loss, samples()) as recorder:
        for number in range(3):
            with recorder.step(range(number, number + 4)) as step:
                model.zero_grad()
                step.losses(samples()[number : number + 4]).mean().backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                every[0].step()
    run = hg.Recording(tmp_path, build(), loss, samples())
    assert replays_to_the_bit(run)
    with pytest.raises(Unsupported, match=r"clipped together with that of .*, which no optimizer moved"):
        hg.attribute(run, hg.mean_loss(samples(2)))
