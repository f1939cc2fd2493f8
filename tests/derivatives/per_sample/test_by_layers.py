"""Per-sample gradients of every layer, and their projections, against autograd one sample at a time."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from derivatives.layers.layer_cases import BATCH, LAYERS
from hydragrad.derivatives import Batch, HooksInapplicable, LayerGradients, Layout, LossModule, Projector
from hydragrad.derivatives import sample_gradients as by_vjp

SIZE = BATCH


def images(*shape):
    return torch.randn(SIZE, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def tokens():
    return torch.randint(4, (SIZE, 3), generator=torch.Generator().manual_seed(1))


class Twice(nn.Module):
    """One layer used twice, its weight tied to another's."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(torch.tanh(self.first(x)))))


class Tokens(nn.Sequential):
    """An embedding with a layer behind it."""

    def __init__(self):
        super().__init__(nn.Embedding(4, 3, padding_idx=1), nn.Linear(3, 2))


MODELS = {name: (case.build, case.x) for name, case in LAYERS.items()} | {
    "embedding and linear": (Tokens, tokens()),
    "linear and layer norm": (lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)), images(4)),
    "twice": (Twice, images(4)),
}


def loss(model, x):
    return model(x).square().flatten(1).sum(1).sin()


def case(name):
    build, x = MODELS[name]
    torch.manual_seed(0)
    model = build().double()
    layout = Layout({key: value.shape for key, value in model.named_parameters()})
    return model, x, layout


def one_by_one(model, x, layout):
    rows = []
    for value in loss(model, x):
        gradients = torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", MODELS)
def test_rows_are_the_gradients_of_single_samples(name):
    model, x, layout = case(name)
    expected, chosen = one_by_one(model, x, layout), [3, 0]
    layers = LayerGradients(model, layout)
    layers.begin(SIZE)
    with torch.no_grad():
        model(x[:2])  # an evaluation in between leaves no trace
    loss(model, x).mean().backward()
    found = layers.rows(chosen)
    layers.remove()
    torch.testing.assert_close(found, expected[chosen] / SIZE, rtol=1e-10, atol=1e-12)
    assert expected.norm(dim=1).min() > 0


@pytest.mark.parametrize("name", MODELS)
def test_products_one_sample_at_a_time_agree(name):
    model, x, layout = case(name)
    problem = LossModule(model, loss)
    parameters = {key: value.detach() for key, value in model.named_parameters()}
    losses, found = by_vjp(problem, layout, parameters, {}, Batch(x, SIZE, 0), [3, 1, 1])
    torch.testing.assert_close(found, one_by_one(model, x, layout)[[3, 1, 1]], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(losses, loss(model, x).detach())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dims", [1, 7])
def test_projected_rows_are_projections_of_the_rows(name, dims, monkeypatch):
    monkeypatch.setattr("hydragrad.derivatives.per_sample.projection.TENSOR_SKETCH_FROM_RATIO", 1)
    model, x, layout = case(name)
    projector = Projector(layout, [layout.names], dims, dtype=torch.float64)
    expected = projector.flat(one_by_one(model, x, layout))
    layers = LayerGradients(model, layout, projector)
    layers.begin(SIZE)
    loss(model, x).sum().backward()
    torch.testing.assert_close(layers.rows(range(SIZE)), expected, rtol=1e-9, atol=1e-11)
    problem = LossModule(model, loss)
    parameters = {key: value.detach() for key, value in model.named_parameters()}
    _, found = by_vjp(problem, layout, parameters, {}, Batch(x, SIZE, 0), range(SIZE), projector=projector)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_batch_statistics_are_inside():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Dropout(0.3)).double().train()
    layout = Layout({key: value.shape for key, value in model.named_parameters()})
    x, problem = images(4), LossModule(model, loss)
    parameters = {key: value.detach() for key, value in model.named_parameters()}
    buffers = dict(model.named_buffers())
    _, found = by_vjp(problem, layout, parameters, buffers, Batch(x, SIZE, 3), range(SIZE))
    torch.manual_seed(3)
    torch.testing.assert_close(found, one_by_one(model, x, layout), rtol=1e-9, atol=1e-11)
    with pytest.raises(HooksInapplicable, match="couples the samples"):
        LayerGradients(model, layout)


def test_layers_that_see_other_rows_say_so():
    model = nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Flatten(0, 1), nn.Linear(2, 3), nn.Unflatten(0, (SIZE, 2)))
    model = model.double()
    layers = LayerGradients(model, Layout({key: value.shape for key, value in model.named_parameters()}))
    layers.begin(SIZE)
    F.softplus(model(images(4))).sum().backward()
    with pytest.raises(HooksInapplicable, match="Linear does not see one row a sample"):
        layers.rows([0])
