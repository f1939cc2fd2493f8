"""A refused setup is an entry of the table, in the library's own words, and the other parts are looked at."""

import pytest
import torch
from torch.optim import SGD, Rprop
from torch.utils.data import Dataset

import hydragrad as hg
from checked_setups import checked, works
from experiments.test_own_function import REFUSED
from recording.toys import build, loss, samples, sgd


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


def test_a_norm_of_zero_to_clip_to_is_an_error():
    with pytest.raises(ValueError, match="clip_norm must be above 0, or None for no clipping, got 0"):
        checked(clip_norm=0.0)


def test_a_training_set_without_a_whole_batch_is_refused_where_smaller_ones_are_left_out():
    result = checked(length=4, drop_last=True)
    assert "An epoch needs at least one batch of 5 samples where drop_last=True" in result.part("loader").refusal.cause


def test_a_stream_is_refused_as_such_and_nothing_else_is_said_of_it():
    model = build()
    result = hg.check(model, sgd(model), loss, REFUSED["no data"][0]["data"], drop_last=True, timed=False)
    assert [name for name, _ in result.changes()] == ["data"]
