"""Sequences of one's own on the command line: shown as texts by one's own tokenizer."""

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from cli.test_app import hydragrad as hydragrad
from hydragrad.datasets import CharacterTokenizer
from hydragrad.models import GPT

TOKENIZER = CharacterTokenizer(tuple(".acdehorst "))
LINES = ["the cat sat", "the dot sat", "the cat ran.", "a rat dashed"]


def line_losses(model, batch):
    (tokens,) = batch
    return F.cross_entropy(model(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:], reduction="none")


def setup():
    tokenizer = CharacterTokenizer((*TOKENIZER.characters, "n"))
    tokens = torch.tensor([tokenizer(line.ljust(12, ".")) for line in LINES * 4])
    model = GPT(vocabulary=len(tokenizer), block_size=11, layers=1, heads=2, width=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return model, hg.loss_of_parts(line_losses), TensorDataset(tokens), optimizer, {"test": TensorDataset(tokens[:2])}


@pytest.fixture
def own(monkeypatch):
    module = SimpleNamespace(
        setup=setup,
        tokenizer=CharacterTokenizer((*TOKENIZER.characters, "n")),
        make=lambda: module.tokenizer,
        number=7,
        nothing=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "own_texts", module)


def trained(hydragrad, out, *options):
    code, _, err = hydragrad(
        "train", "--from", "own_texts:setup", "--epochs", 1, "--batch-size", 4, "--out", out, "--quiet", *options
    )
    assert not code, err
    return out


def test_a_run_remembers_its_tokenizer_and_is_explained_in_texts(hydragrad, own, tmp_path):
    run = trained(hydragrad, tmp_path / "run", "--tokenizer", "own_texts:make")
    code, out, err = hydragrad("explain", run, "--test", 0, "--top", 2, "--curvature", "ggn", "--quiet")
    assert not code, err
    assert "text" in out and "the cat sat" in out
    assert "loss by token" in out and out.count("[") >= 5 * 3, "tokens are marked, of the sample and of four others"
    code, out, _ = hydragrad("report", run, "--query", "test", "--quiet")
    assert not code and "a rat dashed" in (run / "report.html").read_text()


def test_a_tokenizer_can_be_named_later(hydragrad, own, tmp_path):
    run = trained(hydragrad, tmp_path / "run")
    question = ("explain", run, "--test", 0, "--top", 1, "--curvature", "ggn", "--quiet")
    assert "the cat sat" not in hydragrad(*question)[1]
    assert "the cat sat" in hydragrad(*question, "--tokenizer", "own_texts:tokenizer")[1]
    code, out, _ = hydragrad("attribute", run, "--query", "test", "--parts", "--tokenizer", "own_texts:make", "--quiet")
    assert not code and "tokens: + helps" in out


def test_what_is_no_tokenizer_is_refused_before_training(hydragrad, own, tmp_path):
    for name, message in {
        "own_texts:number": "must be an object with decode(tokens), or a function without arguments that returns one",
        "own_texts:nothing": "must be an object with decode(tokens)",
        "own_texts:missing": "Module 'own_texts' has no 'missing' (--tokenizer own_texts:missing)",
        "no_such_module:it": "There is no module 'no_such_module' to import here (--tokenizer",
        "tokenizer": "--tokenizer takes module:name",
    }.items():
        code, _, err = hydragrad(
            "train", "--from", "own_texts:setup", "--tokenizer", name, "--out", tmp_path / "run", "--quiet"
        )
        assert code == 1 and message in err, err
        assert not (tmp_path / "run").exists()
    code, _, err = hydragrad(
        "train", "--data", "digits", "--model", "lenet5", "--tokenizer", "own_texts:make", "--out", tmp_path / "run"
    )
    assert code == 1 and "--tokenizer shows your own data" in err


def test_the_model_is_a_module():
    assert isinstance(setup()[0], nn.Module)
