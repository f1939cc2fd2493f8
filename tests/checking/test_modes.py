"""Every mode is tried: whether it works, by which route, and why."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

import hydragrad as hg
from case_models import MODELS
from checked_setups import checked, routes, works
from hydragrad.randomness import seeded
from recording.toys import loss, samples, sgd


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


def test_values_can_be_recorded_and_only_labels_are_refused():
    result = checked("regression")
    assert result.recordable and [name for name, ok in works(result).items() if not ok] == ["labels"]
    assert result.part("label").ok is None
    assert result.part("label").found == "tensor [1] of the batch, values: for suspects, not for labels=True"


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
