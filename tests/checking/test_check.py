"""A setup is asked about before it is trained: on copies, with refusals as entries of a table."""

import copy
import json

import psutil
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Rprop
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import hydragrad as hg
from case_models import MODELS
from cases import warmed
from experiments.test_own_function import REFUSED
from hydragrad.checking.setup import Setup
from hydragrad.randomness import every_generator_state, seeded
from recording.test_faults import relabelled
from recording.toys import build, loss, samples, sgd

SIZE = 5


def built(name, dtype=torch.float64):
    with seeded(7):
        return MODELS[name].build().to(dtype).train()


def checked(name="mlp", optimizer=SGD, *, dtype=torch.float64, length=18, **options):
    """A model of the cases, checked without timing."""
    case, model = MODELS[name], built(name, dtype)
    data = case.draw(length, 1)
    if dtype == torch.float32 and isinstance(data, TensorDataset):
        data = TensorDataset(*(t.float() if t.is_floating_point() else t for t in data.tensors))
    steps = optimizer([p for p in model.parameters() if p.requires_grad], lr=0.02)
    return hg.check(model, steps, case.loss, data, **{"batch_size": SIZE, "timed": False} | options)


def works(result):
    return {mode.name: mode.works for mode in result.modes}


def routes(result):
    return {mode.name: mode.route for mode in result.modes if mode.works}


# --- what works, and how


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_of_a_plain_setup_everything_can_be_recorded_and_every_mode_works(dtype):
    result = checked(dtype=dtype)
    assert result.recordable and "every mode works" in result.headline
    assert all(part.ok for part in result.parts), result
    assert routes(result) == {
        "record": "hg.Recorder",
        "none": "hooks",
        "labels": "jvp",
        "hessian": "sweep",
        "ggn": "sweep",
        "influence": "influence",
        "counterfactual": "replay",
        "hypergradients": "replay",
        "Tracker": "layers",
    }
    assert result.changes() == []
    assert result.part("label").found == "tensor [1] of the batch, 3 classes"


@pytest.mark.parametrize(
    ("name", "optimizer", "options", "mode", "route", "why"),
    [
        ("batch_norm", SGD, {}, "none", "jvp", "BatchNorm in training mode couples the samples"),
        ("batch_norm", SGD, {}, "Tracker", "vjp", "BatchNorm in training mode couples the samples"),
        ("batch_norm", SGD, {}, "Tracker, frozen statistics", "frozen", "statistics of batches as constants"),
        ("direct", SGD, {}, "none", "jvp", "no rule for the parameters of the model (Direct)"),
        ("direct", SGD, {}, "Tracker", "vjp", "no rule for the parameters of the model (Direct)"),
        ("mlp", AdamW, {}, "none", "sweep", "AdamW moves every coordinate in its own way"),
        ("mlp", SGD, {"clip_norm": 0.01}, "none", "sweep", "clipping acts"),
        ("mlp", SGD, {"clip_norm": 1e6}, "none", "hooks", "every layer has a rule"),
        ("mlp", SGD, {"autocast": torch.bfloat16}, "none", "jvp", "half precision (autocast)"),
    ],
)
def test_a_mode_says_which_route_it_takes_and_why(name, optimizer, options, mode, route, why):
    dtype = torch.float32 if "autocast" in options else torch.float64
    found = checked(name, optimizer, dtype=dtype, **options).mode(mode)
    assert (found.works, found.route) == (True, route)
    assert why in found.why


class OneAtATime(torch.autograd.Function):
    """An operation without a forward-mode rule."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


class WithoutForwardMode(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrix, self.out = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(OneAtATime.apply(x @ self.matrix))


def test_a_route_that_was_left_says_why():
    with seeded(0):
        model = WithoutForwardMode().double()
    found = hg.check(model, SGD(model.parameters(), 0.1), MODELS["mlp"].loss, MODELS["mlp"].draw(18, 1), timed=False)
    assert found.mode("none").route == "samples"
    assert "forward mode is not valid here: " in found.mode("none").why


def test_what_a_mode_refuses_is_an_entry_with_the_librarys_words():
    result = checked("stopped")
    assert result.recordable
    assert [name for name, ok in works(result).items() if not ok] == ["hessian", "ggn"]
    refusal = result.mode("hessian").refusal
    assert refusal.error == "Unsupported" and "The gradient is stopped inside the model" in refusal.cause
    assert refusal.change == "Use curvature='none', which follows the gradient that trained."
    assert [names for names, _ in result.changes()] == ["hessian, ggn"]


def test_a_loss_that_calls_the_model_twice_is_refused_where_one_call_is_needed():
    result = checked("two_calls")
    assert [name for name, ok in works(result).items() if not ok] == ["labels", "ggn", "influence"]
    assert "here the model was called 2 times" in result.mode("ggn").refusal.cause


def test_data_without_labels_can_be_recorded_and_only_labels_are_refused():
    result = checked("regression")
    assert result.recordable and [name for name, ok in works(result).items() if not ok] == ["labels"]
    assert result.part("label").ok is None and "needed by labels=True" in result.part("label").found


def test_parts_say_what_the_record_shows_of_the_loop():
    result = checked("dropout", Adam, clip_norm=0.01, accumulate=2)
    assert result.part("accumulation").found.startswith("2 batches a step")
    assert result.part("clipping").found == "to norm 0.01; acted in 2 of 2 steps"
    assert result.part("randomness").found.startswith("draws random numbers")
    assert result.part("precision").found == "without autocast"
    assert checked().part("randomness").found == "draws no random numbers"


def test_notes_are_those_that_scores_would_have():
    result = hg.check(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), sgd(nn.Linear(1, 1)), loss, samples(), timed=False)
    assert not result.recordable and result.notes == ()
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    kinds = {note.kind for note in hg.check(model, sgd(model), loss, samples(), timed=False).notes}
    assert kinds == {"curvature dropped", "statistics constant", "advice"}


# --- what is refused


def words(name):
    """What the table says of a refused setup, where it is not the command's own sentence."""
    own = {
        "no model": "The model must be a torch.nn.Module, got a str.",
        "no loss": "The loss must be a function of (model, batch), got a float.",
        "no optimizer": "The optimizer must be one of torch.optim, got a str.",
        "empty": "The training set is empty",
        "NaN from the loss": "The losses of the first batch must be finite, 22 of 22 are not.",
    }
    return own.get(name, REFUSED[name][1])


@pytest.mark.parametrize("name", [name for name, (change, _) in REFUSED.items() if "held_out" not in change])
def test_a_refused_setup_is_named_in_the_table(name):
    change, _ = REFUSED[name]
    model = change.get("model") or build()
    optimizer = change.get("optimizer") or SGD(model.parameters(), lr=0.1)
    optimizer = optimizer(model) if not isinstance(optimizer, str | torch.optim.Optimizer) else optimizer
    data = change["data"] if "data" in change else samples()
    result = hg.check(model, optimizer, change.get("loss", loss), data, timed=False)
    assert not result.recordable
    assert any(words(name) in message for _, message in result.changes()), result
    causes = " ".join(" ".join(row).strip() for row in result.to_frame()[["cause", "change"]].to_numpy())
    assert words(name) in causes


def test_where_the_optimizer_is_refused_the_rest_is_tried_with_another_one():
    result = checked(optimizer=Rprop)
    assert not result.recordable
    assert [part.name for part in result.parts if part.ok is False] == ["optimizer"]
    assert "with SGD in the optimizer's place" in result.part("two steps").found
    assert all(works(result).values())


def test_a_refusal_is_told_once():
    result = hg.check(build().half(), sgd(build()), loss, samples(), timed=False)
    assert result.part("two steps").refusal.repeats
    assert [names for names, _ in result.changes()] == ["model"]


class Moving(Dataset):
    """Items that differ at every access."""

    def __init__(self):
        self.count = 0

    def __len__(self):
        return 12

    def __getitem__(self, index):
        self.count += 1
        return torch.full((4,), float(self.count)), index % 3


def test_a_batch_that_does_not_come_again_the_same_is_refused():
    model = build()
    result = hg.check(model, sgd(model), loss, Moving(), timed=False)
    assert not result.recordable
    assert "fetched twice, they made two" in result.part("batches").refusal.cause
    assert "store_batches=True" in result.part("batches").refusal.change


def test_a_loss_with_randomness_of_its_own_is_refused():
    generator, model = torch.Generator().manual_seed(0), build()

    def noisy(model, batch):
        return loss(model, batch) * (1 + torch.rand((), generator=generator))

    result = hg.check(model, sgd(model), noisy, samples(), timed=False)
    assert not result.recordable
    assert "evaluated twice, it differs" in result.part("randomness").refusal.cause


def test_a_loss_without_a_gradient_is_refused():
    model = build()
    result = hg.check(model, sgd(model), lambda model, batch: loss(model, batch).detach(), samples(), timed=False)
    assert "these have no gradient" in result.part("loss").refusal.cause


def test_errors_of_the_users_own_code_are_named_as_such():
    model = build()
    result = hg.check(model, sgd(model), lambda model, batch: model(batch["x"]), samples(), timed=False)
    assert result.part("loss").refusal.foreign and not result.recordable
    assert result.part("loss").refusal.message.startswith("TypeError: list indices must be integers")


def test_a_model_that_cannot_be_copied_is_refused():
    model = build()
    model.handle = (value for value in [1])
    result = hg.check(model, sgd(model), loss, samples(), timed=False)
    assert "can't be copied" in result.part("copies").refusal.cause and not result.recordable


def test_half_precision_that_needs_a_scaler_is_refused_and_the_rest_tried_without():
    result = checked(dtype=torch.float32, autocast=torch.float16)
    assert "needs a gradient scaler" in result.part("precision").refusal.message
    assert not result.recordable and all(works(result).values())
    assert (
        checked(dtype=torch.float32, autocast=torch.bfloat16).part("precision").found == "autocast to bfloat16 on cpu"
    )


def test_a_last_batch_of_one_sample_is_refused_under_batch_norm():
    result = checked("batch_norm", length=11)
    assert "BatchNorm needs at least two samples" in result.part("batch norm").refusal.cause
    assert not result.recordable
    assert checked("batch_norm", length=11, drop_last=True).recordable


@pytest.mark.parametrize("name", ["batch_size", "accumulate", "epochs", "steps"])
def test_numbers_below_one_are_an_error(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        checked(**{name: 0})


# --- nothing of the user's changes


def state(model, optimizer):
    return copy.deepcopy((model.state_dict(), optimizer.state_dict(), [p.grad for p in model.parameters()]))


def same(a, b):
    return str(a) == str(b)


@pytest.mark.parametrize("name", ["batch_norm", "dropout", "stopped"])
def test_model_optimizer_scheduler_loader_and_generators_are_left_as_they_were(name):
    case, model = MODELS[name], built(name).eval()
    optimizer = warmed(Adam(model.parameters(), 0.1), model)
    scheduler = StepLR(optimizer, 1, gamma=0.1)
    loader = DataLoader(case.draw(18, 1), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3))
    before, rates = state(model, optimizer), copy.deepcopy(scheduler.state_dict())
    generators = [t.tolist() for t in (*every_generator_state().values(), loader.generator.get_state())]
    result = hg.check(model, optimizer, case.loss, loader.dataset, loader=loader, scheduler=scheduler, timed=False)
    assert result.recordable, result
    assert same(state(model, optimizer), before) and scheduler.state_dict() == rates
    assert [t.tolist() for t in (*every_generator_state().values(), loader.generator.get_state())] == generators
    assert not model.training and not any(module._forward_hooks for module in model.modules())
    assert not optimizer._optimizer_step_pre_hooks and result.part("schedule").found.startswith("StepLR")


def test_copies_have_the_states_of_the_originals_and_share_nothing_with_them():
    model = build()
    optimizer = warmed(SGD(model.parameters(), 0.1, momentum=0.9), model)
    optimizer.note = [1]
    scheduler = LambdaLR(optimizer, lambda step: 0.5**step)
    setup = Setup(
        model=model,
        optimizer=optimizer,
        loss=loss,
        train_set=samples(),
        data=samples(),
        samples=range(22),
        groups=[[[0, 1]]],
        scheduler=scheduler,
    )
    copied, (own,), schedule = setup.copies()
    assert schedule.optimizer is own and own.note == [1] and own.note is not optimizer.note
    for p, q in zip(model.parameters(), copied.parameters(), strict=True):
        assert torch.equal(p, q) and p is not q
        assert torch.equal(optimizer.state[p]["momentum_buffer"], own.state[q]["momentum_buffer"])
        assert optimizer.state[p]["momentum_buffer"] is not own.state[q]["momentum_buffer"]


def test_a_plateau_schedule_is_given_the_loss():
    model = build()
    optimizer = sgd(model)
    result = hg.check(model, optimizer, loss, samples(), scheduler=ReduceLROnPlateau(optimizer), timed=False)
    assert result.recordable and "ReduceLROnPlateau" in result.part("schedule").found


# --- the loader


def padded(items):
    """Sequences of different lengths, made equally long."""
    x = nn.utils.rnn.pad_sequence([item[0] for item in items], batch_first=True)
    return x, torch.tensor([item[1] for item in items])


class Sequences(Dataset):
    def __len__(self):
        return 11

    def __getitem__(self, index):
        return torch.full((2 + index % 3,), index % 5), index % 3


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.embedding(x).sum(1))


def test_the_loader_gives_batch_size_collate_function_and_steps():
    loader = DataLoader(Sequences(), batch_size=4, collate_fn=padded, shuffle=True, drop_last=True)
    model = Bag()
    result = hg.check(model, sgd(model), loss, loader.dataset, loader=loader, epochs=3, accumulate=2, timed=False)
    assert result.recordable, result
    assert all(works(result).values())
    assert result.steps == 3 and result.samples == 11
    assert "2 batches an epoch, 4 samples each" in result.part("loader").found


def test_a_loader_over_other_samples_than_the_training_set_is_refused():
    data, model = samples(), build()
    result = hg.check(model, sgd(model), loss, data, loader=DataLoader(Subset(data, [1, 2, 3])), timed=False)
    assert "The loader's data set must be train_set" in result.part("loader").refusal.cause


def test_a_loader_without_batches_is_refused():
    data, model = samples(), build()
    empty = DataLoader(data, batch_size=30, drop_last=True)
    assert "has no batch" in hg.check(model, sgd(model), loss, data, loader=empty).part("loader").refusal.cause
    single = DataLoader(data, batch_size=None)
    assert "Set the loader's batch_size" in str(hg.check(model, sgd(model), loss, data, loader=single).changes())


class Own(Dataset):
    """Samples one by one, so that nothing is known of them before they are fetched."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]


def test_samples_are_named_by_their_numbers_in_the_training_set():
    x, y = (tensor.clone() for tensor in samples().tensors)
    x[20] = torch.nan
    data, model = Own(TensorDataset(x, y)), build()
    loader = DataLoader(data, sampler=[19, 20, 21, 18], batch_size=2)
    result = hg.check(model, sgd(model), loss, data, loader=loader, timed=False)
    assert "in samples [20] of the training set" in result.part("two steps").refusal.message
    data = Own(relabelled(20, 7))
    loader = DataLoader(data, sampler=[19, 20, 21, 18], batch_size=2)
    result = hg.check(model, sgd(model), loss, data, loader=loader, timed=False)
    assert "the batch of samples [19, 20]" in result.part("loss").refusal.message


# --- what it costs


@pytest.fixture(scope="module")
def timed():
    model = build()
    return hg.check(model, sgd(model), loss, samples(), batch_size=5, epochs=40)


def test_every_mode_of_the_run_has_a_cost_and_the_whole_training_is_a_multiple(timed):
    assert timed.steps == 200 and timed.step_seconds > 0
    for mode in timed.modes:
        if mode.name == "influence":
            assert mode.ratio is None and mode.seconds > 0
        else:
            assert mode.ratio >= 0
            assert mode.seconds == pytest.approx(mode.ratio * timed.step_seconds * timed.steps)
        assert mode.memory > 0


def test_the_forecast_of_the_run_directory_is_near_that_of_a_training(timed, tmp_path):
    model = build()
    hg.train(model, loss, samples(), sgd(model), epochs=40, batch_size=5, out=tmp_path)
    real = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file() and file.name != "epochs.jsonl")
    assert timed.mode("record").disk == pytest.approx(real, rel=0.25)


def test_the_forecast_of_a_store_is_its_size(timed, tmp_path):
    model = build()
    run = hg.train(model, loss, samples(), sgd(model), epochs=1, batch_size=5, out=tmp_path / "run")
    hg.hypergradients(run, store=tmp_path / "store")
    assert timed.mode("hypergradients").disk == pytest.approx((tmp_path / "store" / "rows.npy").stat().st_size, abs=200)


def test_rows_that_do_not_fit_are_told_before_they_are_made(monkeypatch):
    model = build()
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=4000))
    result = hg.check(model, sgd(model), loss, samples(), timed=False, batch_size=4)
    messages = [message for names, message in result.changes() if "Tracker" in names]
    assert any("samples fit. Give store=" in message for message in messages), result


# --- how it is shown


def test_the_table_is_printed_and_shown_in_notebooks_and_is_a_frame(timed):
    text = repr(timed)
    assert text.splitlines()[0] == "This setup can be recorded, and every mode works."
    assert max(map(len, text.splitlines())) <= 118
    for name in ("model", "two steps", "hessian", "Tracker"):
        assert f"\n{name} " in text and f"<td>{name}</td>" in timed._repr_html_()
    frame = timed.to_frame()
    assert set(frame["table"]) == {"part", "mode"}
    assert frame.set_index("name").loc["hessian", "route"] == "sweep"


def test_the_figures_are_flat_json(timed):
    figures = json.loads(json.dumps(timed.to_dict()))
    assert figures["recordable"] is True and figures["mode.hessian.route"] == "sweep"
    assert not any(isinstance(value, dict | list) for value in figures.values())


def test_a_part_or_mode_that_was_not_looked_at_is_unknown():
    result = hg.check("model", None, loss, samples(), timed=False)
    assert result.mode("hessian").works is None and result.part("two steps").ok is None
    assert "costs: nothing was measured" in result.costs_of


def test_a_list_of_one_optimizer_is_that_optimizer():
    model = build()
    assert hg.check(model, [sgd(model)], loss, samples(), timed=False).recordable
