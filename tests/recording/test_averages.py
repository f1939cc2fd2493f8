"""Averages of the weights next to a model (EMA, SWA): observed, asked about, resumed; refused where they are none."""

import itertools

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, TensorDataset

import hydragrad as hg
from attribution import oracle
from hydragrad.errors import QueryError, RecordingMismatch, RunDamaged, StepError, Unsupported
from hydragrad.randomness import seeded, stream_seed
from recording.toys import loss

SAMPLES, STEPS, SEED = 15, 14, 4


def build(dtype=torch.float64):
    with seeded(3):
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.GELU(), nn.Linear(6, 3)).to(dtype)


def samples(seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SAMPLES, 4, generator=generator, dtype=torch.float64).to(dtype)
    return TensorDataset(x, torch.randint(3, (SAMPLES,), generator=generator))


def sgd(model):
    return SGD(model.parameters(), lr=0.1, momentum=0.8, weight_decay=0.01)


def adamw(model):
    return AdamW(model.parameters(), lr=0.01, eps=1e-3)


class Kept:
    """An average as people write it: by hand, in a dict, with a decay that warms up."""

    def __init__(self, model):
        self.values = {name: value.detach().clone() for name, value in model.named_parameters()}
        self.updates = 0

    def update(self, model, number):
        self.updates += 1
        decay = min(0.9, (1 + self.updates) / (10 + self.updates))
        for name, value in model.named_parameters():
            self.values[name] = decay * self.values[name] + (1 - decay) * value.data

    @property
    def given(self):
        return self.values

    def averaged(self, model):
        model.load_state_dict(self.values, strict=False)
        return model


class Torch:
    """Torch's own, updated after some of the steps."""

    def __init__(self, model, when, **options):
        self.given, self._when = AveragedModel(model, **options), when

    def update(self, model, number):
        if self._when(number):
            self.given.update_parameters(model)

    def averaged(self, model):
        return self.given.module


def every_step(number):
    return True


def from_the_middle(number):
    return number >= 6 and number % 3 == 0


AVERAGES = {
    "ema, buffers copied": lambda model: Torch(model, every_step, multi_avg_fn=get_ema_multi_avg_fn(0.8)),
    "ema, buffers averaged": lambda model: Torch(
        model, every_step, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True
    ),
    "swa": lambda model: Torch(model, from_the_middle, use_buffers=True),
    "by hand, warming up": Kept,
}


def train(model, optimizer, average, watcher, *, first=0, weights=None, stop=STEPS, dtype=torch.float64, clip=0.5):
    data = samples(dtype=dtype)
    for number in range(first, stop):
        indices = [(4 * number + i) % SAMPLES for i in range(4)]
        if weights is not None:
            torch.manual_seed(stream_seed(SEED, number))
            step(model, optimizer, loss(model, data[indices]) * weights[indices], clip)
        else:
            with watcher.step(indices) as handle:
                step(model, optimizer, handle.losses(data[indices]), clip)
        average.update(model, number)


def step(model, optimizer, losses, clip=0.5):
    optimizer.zero_grad()
    losses.mean().backward()
    if clip:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()


def record(path, kind, make=sgd, *, dtype=torch.float64, clip=0.5, **options):
    model = build(dtype)
    average, optimizer = AVERAGES[kind](model), make(model)
    options = {"seed": SEED, "checkpoint_every": 5, "averages": {"ema": average.given}, **options}
    with hg.Recorder(path, model, optimizer, loss, samples(dtype=dtype), **options) as recorder:
        train(model, optimizer, average, recorder, first=recorder.next_step, dtype=dtype, clip=clip)
    return hg.Recording(path, build(dtype), loss, samples(dtype=dtype)), average.averaged(model)


def held_out_loss(kind, make, weights):
    model = build()
    average = AVERAGES[kind](model)
    train(model, make(model), average, None, weights=weights)
    with torch.no_grad():
        return loss(average.averaged(model).eval(), samples(2)[:]).mean().item()


@pytest.mark.parametrize(("kind", "make"), list(itertools.product(AVERAGES, [sgd, adamw])))
def test_contributions_equal_central_differences(tmp_path, kind, make):
    run, _ = record(tmp_path, kind, make)
    ones, h, query = torch.ones(SAMPLES, dtype=torch.float64), 1e-6, hg.mean_loss(samples(2))
    direction = torch.randn(SAMPLES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    below, above = (held_out_loss(kind, make, ones + sign * h * direction) for sign in (-1, 1))
    expected = torch.tensor([(below - above) / (2 * h)], dtype=torch.float64)
    averaged = run.averaged("ema")
    scores = hg.attribute(averaged, query, curvature="hessian", smoothing=0)
    assert oracle.relative(scores.values @ direction, expected) < 1e-5
    assert scores.query_values.item() == pytest.approx(held_out_loss(kind, make, ones), rel=1e-12)
    assert any(note.kind == "average" for note in scores.evidence.notes)
    trained = hg.attribute(run, query, curvature="hessian", smoothing=0)
    assert oracle.relative(trained.values @ direction, expected) > 0.001
    weights = ones.clone()
    weights[[2, 5]] = 0
    without = held_out_loss(kind, make, weights) - held_out_loss(kind, make, ones)
    assert hg.counterfactual(averaged, [[2, 5]], query).values.item() == pytest.approx(without, rel=1e-7)


@pytest.mark.parametrize("kind", AVERAGES)
def test_the_averaged_model_is_the_loops_own(tmp_path, kind):
    run, averaged = record(tmp_path, kind, dtype=torch.float32)
    model = run.averaged().trained_model()
    for name, value in averaged.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)
    assert not torch.equal(run.trained_model()[0].weight, model[0].weight)


@pytest.mark.parametrize("kind", ["ema, buffers averaged", "swa"])
def test_without_curvature_routes_agree_and_the_shares_sum_to_what_is_averaged(tmp_path, kind):
    run, _ = record(tmp_path, kind, clip=None)
    run = run.averaged("ema")
    one_by_one, hooks = (hg.attribute(run, hg.mean_loss(samples(2)), route=route) for route in ("samples", "jvp"))
    assert oracle.relative(one_by_one.values, hooks.values) < 1e-10
    ends = run.ends
    expected = {"ema, buffers averaged": [0.8**13, *(0.2 * 0.8 ** (13 - k) for k in range(1, 14))]}
    expected["swa"] = [float(from_the_middle(number)) / 3 for number in range(STEPS)]
    assert ends.weights == pytest.approx(expected[kind], rel=1e-6)
    assert ends.statistics == pytest.approx(expected[kind], rel=1e-6)


@pytest.mark.parametrize("decay", [0.9, 0.999, 0.9999])
def test_shares_are_read_off_in_single_precision(tmp_path, decay):
    model = build(torch.float32)
    ema, optimizer = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)), sgd(model)
    data = samples(dtype=torch.float32)
    with hg.Recorder(tmp_path, model, optimizer, loss, data, averages={"ema": ema}) as recorder:
        for number in range(40):
            with recorder.step([number % SAMPLES, (number + 3) % SAMPLES]) as handle:
                step(model, optimizer, handle.losses(data[[number % SAMPLES, (number + 3) % SAMPLES]]))
            ema.update_parameters(model)
    run = hg.Recording(tmp_path, build(torch.float32), loss, data).averaged()
    expected = [decay**39, *((1 - decay) * decay ** (39 - k) for k in range(1, 40))]
    assert run.ends.weights == pytest.approx(expected, rel=max(1e-6, 5 * run.average.error))


def test_replays_verify_and_smoothness_are_about_the_average(tmp_path):
    run, _ = record(tmp_path, "ema, buffers averaged")
    query, run = hg.mean_loss(samples(2)), run.averaged("ema")
    scores = hg.attribute(run, query, curvature="hessian")
    evidence = hg.verify(run, scores, groups=8, size=1, extremes=False)
    assert evidence.checks[0].pearson > 0.95
    averaged = hg.attribute(run, query, curvature="hessian", replays=2, drop=0.1)
    assert averaged.values.isfinite().all() and not torch.equal(averaged.values, scores.values)
    assert hg.smoothness(run, query=query, directions=1).sentence
    for function in (hg.hypergradients, hg.approximation_error):
        with pytest.raises(Unsupported, match="about the trained weights"):
            function(run)
    for function in (hg.influence, hg.tracin):
        with pytest.raises(Unsupported, match="open the averaged weights themselves"):
            function(run, query)


@pytest.mark.parametrize("kind", AVERAGES)
def test_an_interrupted_run_is_resumed_to_the_same_bits(tmp_path, kind):
    whole, averaged = record(tmp_path / "whole", kind)
    model = build()
    average, optimizer = AVERAGES[kind](model), sgd(model)
    options = {"seed": SEED, "checkpoint_every": 5, "averages": {"ema": average.given}}
    with (
        pytest.raises(KeyboardInterrupt),
        hg.Recorder(tmp_path / "cut", model, optimizer, loss, samples(), **options) as recorder,
    ):
        train(model, optimizer, average, recorder, stop=12)
        raise KeyboardInterrupt
    with pytest.warns(UserWarning, match="not completed"):
        cut = hg.Recording(tmp_path / "cut", build(), loss, samples())
    with pytest.raises(QueryError, match="not known to the end"):
        cut.averaged("ema")
    model = build()
    average, optimizer = AVERAGES[kind](model), sgd(model)
    if isinstance(average, Kept):
        average.updates = 10
    options |= {"averages": {"ema": average.given}, "resume": True}
    with hg.Recorder(tmp_path / "cut", model, optimizer, loss, samples(), **options) as recorder:
        assert recorder.next_step == 10
        train(model, optimizer, average, recorder, first=10)
    again = average.averaged(model)
    resumed = hg.Recording(tmp_path / "cut", build(), loss, samples()).averaged("ema")
    for name, value in averaged.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
    assert resumed.ends.weights == pytest.approx(whole.averaged("ema").ends.weights, rel=0, abs=0)


def accumulate(model, optimizer, average, watcher, weights=None):
    """Two micro-batches a step; the average is updated after each of them, as some loops do."""
    data = samples()
    for number in range(10):
        for part in range(2):
            indices = [(4 * number + 2 * part + i) % SAMPLES for i in range(3)]
            if weights is None:
                with watcher.step(indices) as handle:
                    (handle.losses(data[indices]).mean() / 2).backward()
                    if part:
                        optimizer.step()
                        optimizer.zero_grad()
            else:
                ((loss(model, data[indices]) * weights[indices]).mean() / 2).backward()
                if part:
                    optimizer.step()
                    optimizer.zero_grad()
            average.update(model, number)


def test_an_average_that_is_updated_after_every_micro_batch(tmp_path):
    def kept(model, use_buffers=False):
        return Torch(model, every_step, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=use_buffers)

    def retrained(weights):
        model = build()
        average = kept(model)
        accumulate(model, sgd(model), average, None, weights)
        with torch.no_grad():
            return loss(average.averaged(model).eval(), samples(2)[:]).mean().item()

    def recorded(path, use_buffers=False):
        model = build()
        average, optimizer = kept(model, use_buffers), sgd(model)
        with hg.Recorder(path, model, optimizer, loss, samples(), averages={"ema": average.given}) as recorder:
            accumulate(model, optimizer, average, recorder)
        return hg.Recording(path, build(), loss, samples()).averaged()

    ones, h, query = torch.ones(SAMPLES, dtype=torch.float64), 1e-6, hg.mean_loss(samples(2))
    direction = torch.randn(SAMPLES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = (retrained(ones - h * direction) - retrained(ones + h * direction)) / (2 * h)
    scores = hg.attribute(recorded(tmp_path / "copied"), query, curvature="hessian", smoothing=0)
    assert (scores.values @ direction).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(Unsupported, match="no average of the model's"):
        hg.attribute(recorded(tmp_path / "averaged", use_buffers=True), query, curvature="hessian")


def test_other_averages_are_not_resumed(tmp_path):
    record(tmp_path, "swa")
    with pytest.raises(RecordingMismatch, match=r"averages ema before step 14, and now has none"):
        record(tmp_path, "swa", resume=True, averages=None)


def test_statistics_that_were_made_anew_are_refused_where_they_are_differentiated(tmp_path):
    model = build()
    ema, optimizer = Torch(model, every_step, multi_avg_fn=get_ema_multi_avg_fn(0.8)), sgd(model)
    options = {"averages": {"ema": ema.given}, "seed": SEED}
    with hg.Recorder(tmp_path, model, optimizer, loss, samples(), **options) as recorder:
        train(model, optimizer, ema, recorder)
        update_bn(DataLoader(TensorDataset(samples().tensors[0]), 5), ema.given)
    run, query = hg.Recording(tmp_path, build(), loss, samples()).averaged(), hg.mean_loss(samples(2))
    torch.testing.assert_close(run.trained_model()[1].running_mean, ema.given.module[1].running_mean, rtol=0, atol=0)
    for function in (
        lambda: hg.attribute(run, query, curvature="ggn"),
        lambda: hg.counterfactual(run, [[0]], query),
    ):
        with pytest.raises(Unsupported, match="update_bn"):
            function()
    assert hg.attribute(run, query).values.isfinite().all()


def test_what_is_no_average_is_refused(tmp_path):
    model = build()
    with pytest.raises(Unsupported, match=r"'ema' has none for 0.weight"):
        hg.Recorder(tmp_path, model, sgd(model), loss, samples(), averages={"ema": nn.Linear(2, 2)})
    with pytest.raises(Unsupported, match="needs a name"):
        hg.Recorder(tmp_path, model, sgd(model), loss, samples(), averages={"a/b": build()})
    ema, optimizer = Kept(model), sgd(model)
    with (
        pytest.raises(StepError, match=r"'ema' became something else before step 2"),
        hg.Recorder(tmp_path, model, optimizer, loss, samples(), averages={"ema": ema.given}) as recorder,
    ):
        ema.update = lambda model, number: number and ema.values["3.bias"].add_(0.1)
        train(model, optimizer, ema, recorder)


def test_an_average_of_the_weights_before_the_step_is_refused(tmp_path):
    model = build()
    ema, optimizer = Kept(model), sgd(model)
    with (
        pytest.raises(StepError, match="before the optimizer's step"),
        hg.Recorder(tmp_path, model, optimizer, loss, samples(), averages={"ema": ema.given}) as recorder,
    ):
        for number in range(4):
            with recorder.step([number, number + 1]) as handle:
                optimizer.zero_grad()
                handle.losses(samples()[[number, number + 1]]).mean().backward()
                ema.update(model, number)
                optimizer.step()


def test_names_and_damage(tmp_path):
    run, _ = record(tmp_path, "swa")
    with pytest.raises(QueryError, match=r"averages ema; got 'other'"):
        run.averaged("other")
    lines = (tmp_path / "averages.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "averages.jsonl").write_bytes(b"".join(lines[:-1]))
    with pytest.raises(RunDamaged, match="truncated"):
        run.averaged("ema")
    model = build()
    average, optimizer = Torch(model, lambda number: False), sgd(model)
    with hg.Recorder(tmp_path / "never", model, optimizer, loss, samples(), averages={"ema": average.given}) as r:
        train(model, optimizer, average, r, stop=2)
    with pytest.raises(QueryError, match="was not updated after any step"):
        hg.Recording(tmp_path / "never", build(), loss, samples()).averaged()


@pytest.mark.parametrize("given", ["list of all", "list of the trained"])
def test_a_list_in_the_models_order_and_frozen_weights(tmp_path, given):
    model = build()
    model[0].weight.requires_grad_(False)
    parameters = [p for p in model.parameters() if given == "list of all" or p.requires_grad]
    shadow = [p.detach().clone() for p in parameters]
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with hg.Recorder(tmp_path, model, optimizer, loss, samples(), averages={"ema": shadow}) as recorder:
        for number in range(5):
            with recorder.step([number, number + 1]) as handle:
                step(model, optimizer, handle.losses(samples()[[number, number + 1]]))
            for held, value in zip(shadow, parameters, strict=True):
                held.sub_(0.25 * (held - value.detach()))
    frozen = build()
    frozen[0].weight.requires_grad_(False)
    run = hg.Recording(tmp_path, frozen, loss, samples()).averaged()
    assert run.ends.weights == pytest.approx([0.25 * 0.75 ** (4 - k) for k in range(5)])
    values = dict(zip([id(p) for p in parameters], shadow, strict=True))
    torch.testing.assert_close(run.trained_model()[3].weight.detach(), values[id(model[3].weight)], rtol=0, atol=0)
