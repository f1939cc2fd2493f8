"""What a user's own function may return: everything else is refused in one line, before anything is written."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, AdamW, Rprop
from torch.utils.data import TensorDataset

from cli.test_app import hydragrad as hydragrad
from hydragrad.runs.manifest import read_manifest
from hydragrad.steps import rule_of
from recording.test_faults import Stream, embedding, relabelled, with_nan
from recording.toys import build, digest, loss, samples

EMPTY = TensorDataset(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def under_autocast(model, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return loss(model, batch)


REFUSED = {
    "no model": (
        {"model": "model", "optimizer": SGD(build().parameters(), 0.1)},
        "returned a str in a place where the model must be a torch.nn.Module",
    ),
    "no loss": ({"loss": 1.0}, "a float in a place where the loss must be a function of (model, batch)"),
    "no optimizer": ({"optimizer": "sgd"}, "the optimizer must be Adadelta, Adafactor"),
    "no dict": ({"held_out": [samples()]}, "a list in a place where the held-out data must be a dict of data sets"),
    "no data": ({"data": Stream()}, "must be a map-style data set"),
    "empty": ({"data": EMPTY}, "The data set 'train_set' that own:setup returned is empty"),
    "empty held-out data": ({"held_out": {"test": EMPTY}}, "The data set 'test' that own:setup returned is empty"),
    "label too large": ({"data": relabelled(9, 3)}, "The loss refused the batch of samples [9]"),
    "NaN": ({"data": with_nan(False)}, "1 training samples hold NaN or infinity (the first: [4])"),
    "NaN, own data set": ({"data": with_nan(True)}, "in samples [4] of the training set. Remove or repair"),
    "one number": ({"loss": lambda model, batch: loss(model, batch).mean()}, "it returned a torch.float32 tensor of"),
    "a matrix": ({"loss": lambda model, batch: model(batch[0])}, "tensor of shape (22, 3)"),
    "NaN from the loss": ({"loss": lambda model, batch: loss(model, batch) * torch.nan}, "nan at the first step"),
    "diverging": ({"optimizer": lambda model: SGD(model.parameters(), 1e30)}, "Lower the rate (1e+30)."),
    "half": ({"model": build().half()}, "must be float32, or all float64"),
    "bfloat16": ({"model": build().bfloat16()}, "must be float32, or all float64"),
    "autocast": ({"loss": under_autocast}, "must run in float32"),
    "Rprop": ({"optimizer": lambda model: Rprop(model.parameters())}, "Rprop has no rule here"),
    "LBFGS": ({"optimizer": lambda model: LBFGS(model.parameters())}, "LBFGS has no rule here"),
    "sparse": ({"model": embedding()}, "Build it without sparse"),
    "no parameters": ({"model": nn.Flatten(), "optimizer": SGD(build().parameters(), 0.1)}, "has no parameters"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_function_returned_is_refused_in_one_line(hydragrad, tmp_path, monkeypatch, name):
    change, message = REFUSED[name]
    code, _, err = trained(hydragrad, monkeypatch, tmp_path / "run", **change)
    assert code == 1
    assert message in err, err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
    assert digest(tmp_path) == {} and not (tmp_path / "run").exists()


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_what_is_right_is_trained(hydragrad, tmp_path, monkeypatch, optimizer):
    right = {"optimizer": lambda model: optimizer(model.parameters(), lr=0.01), "held_out": {"test": samples(9)}}
    code, _, err = trained(hydragrad, monkeypatch, tmp_path / "run", **right)
    assert code == 0, err
    assert read_manifest(tmp_path / "run").optimizers == [rule_of(optimizer(build().parameters(), lr=0.01)).name]


def test_the_optimizer_of_the_function_is_the_only_one(hydragrad, tmp_path):
    code, _, err = hydragrad("train", "--from", "own:setup", "--optimizer", "adamw", "--out", tmp_path / "run")
    assert code == 1
    assert "--optimizer" in err and "set them in your function" in err


def trained(hydragrad, monkeypatch, out, *, model=None, data=None, optimizer=None, held_out=None, **given):
    def setup():
        torch.manual_seed(0)
        made = model or build()
        steps = optimizer(made) if callable(optimizer) else optimizer or SGD(made.parameters(), lr=0.1)
        return made, given.get("loss", loss), samples() if data is None else data, steps, held_out or {}

    monkeypatch.setitem(sys.modules, "own", SimpleNamespace(setup=setup))
    return hydragrad("train", "--from", "own:setup", "--epochs", 1, "--out", out, "--quiet")
