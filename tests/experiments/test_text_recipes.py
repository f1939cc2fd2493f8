"""How texts are trained: the optimizer, the schedule, the loss, the accuracy, and derivatives of the whole."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, AdamW

import hydragrad as hg
import small_texts
from hydragrad.datasets import load_text
from hydragrad.datasets.sequences import PADDING
from hydragrad.derivatives import head_calls
from hydragrad.experiments import text_recipes
from hydragrad.experiments.text_recipes import (
    TEXT_RECIPES,
    fresh_text_model,
    loss_and_next_token_accuracy,
    next_token_loss,
    warm_up_and_cosine,
)

SIZES = {"layers": 1, "heads": 2, "width": 8}


@pytest.fixture
def names(tmp_path, monkeypatch):
    folder = small_texts.install(monkeypatch, tmp_path / "text")
    return load_text("names", data_dir=folder, train_size=12, validation_size=6)


def started(names, **options):
    return fresh_text_model(names, "gpt", seed=0, steps=6, sizes=SIZES, **options)


def test_only_matrices_decay(names):
    start = started(names)
    matrices, others = start.optimizer.param_groups
    assert type(start.optimizer) is AdamW
    assert {p.ndim for p in matrices["params"]} == {2} and {p.ndim for p in others["params"]} == {1}
    assert (matrices["weight_decay"], others["weight_decay"], matrices["betas"]) == (0.1, 0.0, (0.9, 0.99))
    parameters = [id(p) for group in (matrices, others) for p in group["params"]]
    assert sorted(parameters) == sorted(map(id, start.model.parameters()))


def test_another_optimizer_and_rate_replace_those_of_the_recipe(names):
    start = started(names, optimizer="sgd", lr=0.3)
    assert type(start.optimizer) is SGD
    assert start.scheduler.base_lrs == [0.3]


def test_the_rate_rises_for_a_tenth_of_the_steps_and_falls_to_a_tenth(names):
    factor = warm_up_and_cosine(100, TEXT_RECIPES["names"])
    factors = [factor(step) for step in range(100)]
    assert factors[:11] == pytest.approx([n / 10 for n in range(1, 11)] + [1.0])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[99] == pytest.approx(0.1) and factors[54] == pytest.approx(0.55, abs=0.02)
    assert warm_up_and_cosine(1, TEXT_RECIPES["names"])(0) == 1.0


class Fixed(nn.Module):
    """Says the same whatever it reads."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, tokens):
        return self.logits.expand(*tokens.shape, -1)


def test_a_large_vocabulary_has_the_same_loss_in_chunks(names, monkeypatch):
    model = started(names).model.double()
    batch = [torch.stack(part) for part in zip(*names.validation, strict=True)]
    expected = next_token_loss(model, batch)
    monkeypatch.setattr(text_recipes, "LARGE_VOCABULARY", 2)
    with head_calls() as calls:
        actual = next_token_loss(model, batch)
    assert len(calls) == 1
    torch.testing.assert_close(actual, expected)


def test_loss_and_accuracy_are_of_the_tokens_and_not_of_the_padding(names):
    model = Fixed(torch.zeros(len(names.tokenizer)))
    batch = [torch.stack(part) for part in zip(*names.validation, strict=True)]
    assert next_token_loss(model, batch).tolist() == pytest.approx([math.log(len(names.tokenizer))] * 6)
    with torch.no_grad():
        model.logits[names.tokenizer("a")[0]] = 1.0
    loss, accuracy = loss_and_next_token_accuracy(model, names.validation)
    characters = "".join(names.text(item) + "." for item in names.validation)
    assert accuracy == pytest.approx(characters.count("a") / len(characters))
    assert loss == pytest.approx(next_token_loss(model, batch).mean().item())


def test_the_loss_rounds_as_in_runs_of_earlier_versions(names):
    """So that they are still replayed to the bit."""
    model, (tokens, following) = started(names).model, names.train[:]
    logits = model(tokens)
    every = F.cross_entropy(logits.flatten(0, 1), following.flatten(), ignore_index=PADDING, reduction="none")
    before = every.view_as(following).sum(1) / (following != PADDING).sum(1)
    now = next_token_loss(model, (tokens, following))
    assert torch.equal(now, before)
    weights = torch.linspace(0.5, 1.5, len(now))
    gradients = [torch.autograd.grad(losses @ weights, list(model.parameters())) for losses in (now, before)]
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def trained(names, weights, indices):
    """Validation loss after nanoGPT's loop, written out, with a weight for every sample."""
    start = started(names)
    model = start.model.double()
    for some in indices:
        batch = names.train[some]
        start.optimizer.zero_grad()
        (next_token_loss(model, batch) * weights[some]).mean().backward()
        clip_grad_norm_(model.parameters(), 1.0)
        start.optimizer.step()
        start.scheduler.step()
    with torch.no_grad():
        return next_token_loss(model, names.validation[:]).mean().item()


def test_contributions_are_those_of_a_loop_written_out(names, tmp_path):
    start = started(names)
    run = hg.train(
        start.model.double(),
        next_token_loss,
        names.train,
        start.optimizer,
        epochs=2,
        batch_size=4,
        out=tmp_path / "run",
        scheduler=start.scheduler,
        scheduler_every=start.scheduler_every,
        clip_norm=1.0,
    )
    indices = [list(record.indices) for record in run.steps]
    ones = torch.ones(12, dtype=torch.float64)
    query = hg.mean_loss(names.validation)
    scores = hg.attribute(run, query, curvature="hessian", smoothing=0)
    assert trained(names, ones, indices) == pytest.approx(scores.query_values[0].item(), abs=1e-12)
    for sample in (0, 7):
        step = torch.zeros(12, dtype=torch.float64)
        step[sample] = 1e-4
        slope = (trained(names, ones + step, indices) - trained(names, ones - step, indices)) / 2e-4
        assert abs(slope) > 1e-6
        assert scores.values[0, sample].item() == pytest.approx(-slope, rel=1e-5)
