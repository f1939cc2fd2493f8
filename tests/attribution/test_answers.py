"""Questions that are refused, with their reason; and embeddings with a padding index."""

import pytest
import torch
from torch.optim import SGD

import hydragrad as hg
from attribution import oracle
from case_models import Tied, mlp
from cases import HELD_OUT, Case
from hydragrad.errors import QueryError, Unsupported

MLP = Case("mlp", "all")
QUERY = hg.mean_loss(MLP.held_out)


def test_damping_without_curvature(recorded):
    with pytest.raises(QueryError, match="damping is added to the curvature"):
        hg.attribute(recorded(MLP), QUERY, damping=0.1)


def test_a_padded_embedding_that_is_shared(tmp_path):
    data = Case("tied", "all")
    run = own_run(tmp_path, Tied(padding_idx=2).double(), data.loss, data.train_set)
    query = hg.mean_loss(data.held_out)
    for curvature in ("hessian", "ggn"):
        with pytest.raises(Unsupported, match="embedding has a padding index and shares its weight"):
            hg.attribute(run, query, curvature=curvature)
    hooks, jvp = (hg.attribute(run, query, route=route).values for route in ("hooks", "jvp"))
    assert oracle.relative(jvp, hooks) < 1e-10


class FunctionallyTied(Tied):
    """The same, with nothing in the layers that tells of it."""

    def __init__(self) -> None:
        super().__init__(padding_idx=2)
        del self.out

    def forward(self, x):
        return torch.nn.functional.linear(torch.tanh(self.mix(self.embedding(x).mean(1))), self.embedding.weight)


def test_a_padded_embedding_that_is_shared_by_hand(tmp_path):
    data = Case("tied", "all")
    run = own_run(tmp_path, FunctionallyTied().double(), data.loss, data.train_set)
    with pytest.raises(Unsupported, match="embedding has a padding index and shares its weight"):
        hg.attribute(run, hg.mean_loss(data.held_out), curvature="hessian")


@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_a_gradient_that_is_stopped_on_its_way(curvature, recorded):
    case = Case("stopped", "all")
    with pytest.raises(Unsupported, match=r"stopped inside the model or the loss .* Use curvature='none'"):
        hg.attribute(recorded(case), hg.mean_loss(case.held_out), curvature=curvature)
    assert hg.attribute(recorded(case), hg.mean_loss(case.held_out)).values.abs().min() > 0


class Watched(torch.nn.Module):
    """Keeps what it computed to be looked at, and shifts its logits by a constant that it does not differentiate."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp()

    def forward(self, x):
        self.seen = self.layers[0](x).detach()
        logits = self.layers(x)
        with torch.no_grad():
            self.mean = logits.mean()
        return logits - logits.detach().max(1, keepdim=True).values


def test_stops_without_effect_are_no_hindrance(tmp_path):
    watched, plain_model = Watched().double(), mlp().double()
    plain_model.load_state_dict(watched.layers.state_dict())
    run = own_run(tmp_path, watched, MLP.loss, MLP.train_set)
    plain = own_run(tmp_path / "plain", plain_model, MLP.loss, MLP.train_set)
    for curvature in ("hessian", "ggn"):
        given, expected = (hg.attribute(each, QUERY, curvature=curvature).values for each in (run, plain))
        assert oracle.relative(given, expected) < 1e-9


def test_the_padding_row_carries_nothing(recorded):
    """Not even where the query reaches for the row itself, which no step moves."""
    case = Case("lookup", "plain")
    query = hg.query("row", lambda model: model.embedding.weight[2, 0] + model.embedding.weight[1, 0])
    other = hg.query("row", lambda model: model.embedding.weight[1, 0])
    for asked in ({"route": "hooks"}, {"route": "jvp"}, {"curvature": "hessian"}, {"curvature": "ggn"}):
        both = [hg.attribute(recorded(case), each, **asked).values for each in (query, other)]
        assert oracle.relative(*both) < 1e-12


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda model: torch.tensor(1.0).double(), "does not depend on the trained parameters"),
        (lambda model: model(torch.ones(1, 4).double()).detach().sum(), "does not depend on the trained parameters"),
        (lambda model: model(torch.ones(1, 4).double()), r"one number, got shape \(1, 3\)"),
        (lambda model: 1.0, "got a float"),
        (lambda model: model(torch.ones(1, 4).double()).sum() * float("nan"), "NaN or infinity"),
    ],
)
def test_queries_that_are_no_queries(function, message, recorded):
    with pytest.raises(QueryError, match=message):
        hg.attribute(recorded(MLP), hg.query("margin", function))


def test_queries_of_samples_that_do_not_exist():
    with pytest.raises(QueryError, match=r"samples 0 to 8, got \[9\]"):
        hg.sample_losses(MLP.held_out, [0, HELD_OUT])
    with pytest.raises(QueryError, match="got none"):
        hg.sample_losses(MLP.held_out, [])
    with pytest.raises(QueryError, match="empty"):
        hg.mean_loss(torch.utils.data.Subset(MLP.held_out, []))


def own_run(path, model, loss, train_set):
    """A recorded run of a model and loss that are no case."""
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.5, weight_decay=0.05)
    return hg.train(model, loss, train_set, optimizer, epochs=2, batch_size=5, out=path / "run", seed=1)
