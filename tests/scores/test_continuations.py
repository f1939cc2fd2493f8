"""Queries about language models: values and gradients against autograd, and what is refused."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.attribution.gradients import query_point
from hydragrad.derivatives import Layout
from hydragrad.errors import QueryError
from hydragrad.models import GPT

PROMPT, COMPLETION = [0, 3, 1], [2, 4]


class Wrapped(nn.Module):
    """Returns logits as models of transformers do."""

    def __init__(self, gpt):
        super().__init__()
        self.gpt = gpt

    def forward(self, tokens):
        return SimpleNamespace(logits=self.gpt(tokens))


def gpt():
    torch.manual_seed(0)
    return GPT(vocabulary=6, block_size=8, layers=1, heads=2, width=8).double()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    model = gpt()
    tokens = torch.randint(6, (8, 6), generator=torch.Generator().manual_seed(1))

    def loss(model, batch):
        (x,) = batch
        return F.cross_entropy(model(x[:, :-1]).transpose(1, 2), x[:, 1:], reduction="none").mean(1)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path = tmp_path_factory.mktemp("runs") / "run"
    return hg.train(model, loss, TensorDataset(tokens), optimizer, epochs=1, batch_size=4, out=path)


def losses_written_out(model):
    """Of the two tokens of the completion, each by a forward pass of its own."""
    first = F.cross_entropy(model(torch.tensor([PROMPT]))[0, -1:], torch.tensor(COMPLETION[:1]))
    second = F.cross_entropy(model(torch.tensor([[*PROMPT, 2]]))[0, -1:], torch.tensor(COMPLETION[1:]))
    return torch.stack([first, second])


CASES = {
    "continuation": (hg.continuation_loss(PROMPT, COMPLETION), lambda losses: [losses.mean()]),
    "tensors": (hg.continuation_loss(torch.tensor(PROMPT), torch.tensor(COMPLETION)), lambda losses: [losses.mean()]),
    "completion": (hg.log_probability(PROMPT, COMPLETION), lambda losses: [-losses.sum()]),
    "tokens": (hg.token_losses([*PROMPT, *COMPLETION], [4, 3]), lambda losses: [losses[1], losses[0]]),
    "difference": (
        hg.difference(hg.log_probability(PROMPT, COMPLETION), hg.log_probability(PROMPT, COMPLETION[:1])),
        lambda losses: [-losses[1]],
    ),
    "called": (
        hg.continuation_loss(PROMPT, COMPLETION, logits=lambda model, tokens: model(tokens)),
        lambda losses: [losses.mean()],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_autograd(case, run):
    query, written_out = CASES[case]
    model = run.trained_model().requires_grad_()
    named = dict(model.named_parameters())
    layout = Layout({name: parameter.shape for name, parameter in named.items()})
    point = query_point(run, layout, Layout({}))
    expected = written_out(losses_written_out(model))
    rows = list(query.rows(point))
    assert [row.name for row in rows] == query.names()
    for row, value, scalar in zip(rows, query.values(run.trained_model(), point), expected, strict=True):
        gradients = torch.autograd.grad(scalar, list(named.values()), retain_graph=True)
        flat = layout.flatten(dict(zip(named, gradients, strict=True)), row.w_bar)
        assert flat.norm() > 1e-3
        assert row.value == pytest.approx(scalar.item(), rel=1e-12) == pytest.approx(value, rel=1e-12)
        assert (row.w_bar - flat).norm() < 1e-12 * flat.norm()


def test_outputs_of_transformers_have_logits():
    model = Wrapped(gpt())
    query = hg.continuation_loss(PROMPT, COMPLETION)
    assert query.values(model, None)[0] == pytest.approx(float(losses_written_out(model.gpt.eval()).mean().detach()))


def test_contributions_to_a_difference_are_the_differences_of_contributions(run):
    likely, unlikely = hg.log_probability(PROMPT, COMPLETION), hg.log_probability(PROMPT, [5])
    both = hg.attribute(run, [likely, unlikely], curvature="hessian").values
    alone = hg.attribute(run, hg.difference(likely, unlikely, name="preference"), curvature="hessian")
    assert alone.query_names == ("preference",)
    assert torch.allclose(alone.values[0], both[0] - both[1], rtol=1e-10, atol=1e-16)


def test_names_say_what_is_asked():
    several = hg.token_losses([0, 1, 2], [1, 2])
    assert several.names() == ["loss of token 1", "loss of token 2"]
    assert hg.difference(several, several).names()[0] == "loss of token 1 less loss of token 1"
    assert hg.difference(several, several, name="d").names() == ["d 0", "d 1"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hg.continuation_loss([], [1]), "A prompt has tokens, numbers from 0, at least one .* got none"),
        (lambda: hg.log_probability([1], [-100]), r"A continuation has tokens, numbers from 0.* got \[-100\]"),
        (lambda: hg.token_losses([1, 2, 3], [0, 3]), r"at 1 to 2, got \[0, 3\]"),
        (lambda: hg.token_losses([1, 2, 3], []), "at 1 to 2, got none"),
        (
            lambda: hg.difference(hg.token_losses([1, 2, 3], [1, 2]), hg.log_probability([1], [2])),
            "the first query has 2 and the second 1",
        ),
    ],
)
def test_what_can_not_be_asked_is_refused(make, message):
    with pytest.raises(QueryError, match=message):
        make()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (hg.continuation_loss([9, 1], [2]), "The model must know the tokens of a query"),
        (hg.continuation_loss([1], [9]), "The model has logits of 6 tokens, got token 9"),
        (hg.continuation_loss([1], [2], logits=lambda m, x: m(x)[0]), r"logits \(1, 1, vocabulary\); it gave \(1, 6\)"),
    ],
)
def test_what_the_model_does_not_know_is_refused(query, message):
    with pytest.raises(QueryError, match=message):
        query.values(gpt(), None)
