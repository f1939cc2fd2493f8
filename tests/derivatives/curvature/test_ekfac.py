"""EK-FAC against the dense Gauss-Newton matrix: in its basis it has the diagonal of that, whatever layers there are."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, jacrev

from hydragrad.derivatives import Batch, Layout, LossModule, fit_ekfac
from hydragrad.derivatives.curvature.output_draws import root_times
from hydragrad.derivatives.layers.factors import factors

DRAWS = 120


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Tied(nn.Module):
    """Embedding and head are one weight; the tokens of a text are one sample."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.embedding(tokens)))


class Own(nn.Module):
    """A parameter of its own between layers."""

    def __init__(self):
        super().__init__()
        self.first, self.scale, self.last = nn.Linear(4, 3), nn.Parameter(torch.ones(3)), nn.Linear(3, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)) * self.scale)


def images():
    return nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))


def signals():
    return nn.Sequential(nn.Conv1d(1, 2, 3, padding="same"), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def over_tokens(model, batch):
    return F.cross_entropy(model(batch[0]).transpose(1, 2), batch[1], reduction="none").mean(1)


LABELS = torch.arange(6) % 3
TOKENS = torch.randint(5, (6, 4), generator=torch.Generator().manual_seed(0))
CASES = {
    "linear": (lambda: nn.Linear(4, 3), (normal(6, 4), LABELS), cross_entropy),
    "layer norm": (lambda: nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)), (normal(6, 4), LABELS), cross_entropy),
    "a parameter of the model": (Own, (normal(6, 4), LABELS), cross_entropy),
    "images": (images, (normal(6, 1, 4, 4), LABELS), cross_entropy),
    "signals": (signals, (normal(6, 1, 4), LABELS), cross_entropy),
    "tied": (Tied, (TOKENS, TOKENS.roll(1, 1)), over_tokens),
}


def case(name):
    build, (x, y), loss = CASES[name]
    torch.manual_seed(0)
    model = build().double()
    problem = LossModule(model, loss)
    problem.eval()
    parameters = {key: value.detach() for key, value in model.named_parameters()}
    layout = Layout({key: value.shape for key, value in parameters.items()})

    def batches():
        return (Batch((x[at : at + 2], y[at : at + 2]), 2, 0) for at in range(0, 6, 2))

    def fit(layout=layout, draws=DRAWS):
        return fit_ekfac(problem, layout, parameters, {}, batches, draws=draws)

    return model, layout, fit, dense(model, loss, x, y, layout, parameters)


def dense(model, loss, x, y, layout, parameters):
    """Mean Gauss-Newton matrix, by the outputs' Jacobian and the losses' Hessian in them."""
    start = layout.flatten(parameters, x if x.is_floating_point() else normal(1))
    jacobian = jacrev(lambda w: functional_call(model, layout.views(w), x).flatten())(start)
    output = functional_call(model, parameters, x)
    inner = torch.func.hessian(lambda o: loss(lambda _: o.view(output.shape), (x, y)).sum())(output.flatten())
    return jacobian.T @ inner @ jacobian / len(x)


@pytest.mark.parametrize("name", CASES)
def test_in_its_basis_it_has_the_diagonal_of_the_matrix(name):
    _, layout, fit, matrix = case(name)
    fitted = fit()
    identity, size = torch.eye(layout.size, dtype=torch.float64), 0.0
    assert {(s.start, s.stop) for block in fitted.blocks for s in block.spans} == {
        (s.start, s.stop) for s in layout.spans.values()
    }
    for block in fitted.blocks:
        columns = block.rotated(block.take(identity)).flatten(1)  # the basis, one vector a column
        torch.testing.assert_close(columns.T @ columns, torch.eye(columns.shape[1], dtype=torch.float64))
        exact = (columns.T @ matrix @ columns).diagonal()
        error = (block.eigenvalues.flatten() - exact).norm() / exact.norm()
        assert error < 5 * DRAWS**-0.5 / 2, f"{error}"
        size += float(exact.sum())
    assert size == pytest.approx(float(matrix.trace()))


@pytest.mark.parametrize("damping", [0.1, 0.0])
def test_its_inverse_undoes_its_products(damping):
    _, layout, fit, _ = case("images")
    fitted, vectors = fit(draws=4), normal(3, 1).expand(3, layout.size) * normal(layout.size)
    forth = fitted.times(vectors) + max(damping, 1e-6 * fitted.largest) * vectors
    torch.testing.assert_close(fitted.inverse(forth, damping), vectors, rtol=1e-7, atol=1e-7)
    assert fitted.is_finite


def test_frozen_parameters_are_left_out():
    model, layout, fit, _ = case("images")
    shapes = {name: shape for name, shape in layout.shapes.items() if name != "0.bias"}
    fitted = fit(Layout(shapes), draws=1)
    assert sum(block.eigenvalues.numel() for block in fitted.blocks) == layout.size - model[0].bias.numel()


def test_a_weight_too_wide_for_eigenvectors_keeps_its_own_basis(monkeypatch):
    monkeypatch.setattr("hydragrad.derivatives.curvature.ekfac.LARGEST_SIDE", 4)
    _, layout, fit, _ = case("images")
    wide = next(block for block in fit(draws=1).blocks if block.spans[0] == layout.spans["3.weight"])
    assert wide.right is None and wide.left is not None and wide.left.shape == (3, 3)


def test_the_root_of_a_matrix_times_a_vector_is_exact_where_the_steps_span_it():
    wide = normal(3, 5, 5)
    matrices = wide @ wide.mT
    matrices[1], matrices[2] = 0, 2 * torch.eye(5)
    matrices = torch.cat([matrices, torch.diag(torch.tensor([3.0, -1.0, 0, 0, 1.0]))[None].double()])
    z = normal(4, 5)
    values, vectors = torch.linalg.eigh(matrices)
    roots = vectors @ torch.diag_embed(values.clamp(min=0).sqrt()) @ vectors.mT
    expected = torch.einsum("rij,rj->ri", roots, z)
    actual = root_times(lambda v: torch.einsum("rij,rj->ri", matrices, v), z, 16)
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["images", "signals"])
def test_factors_of_convolutions_multiply_to_the_gradient(name):
    layer, (x, _) = CASES[name][0]()[0].double(), CASES[name][1]
    y = layer(x)
    delta = normal(*y.shape, seed=1)
    (expected,) = torch.autograd.grad(y, layer.weight, delta)
    inputs, outputs = factors(layer, x, delta)
    torch.testing.assert_close(torch.einsum("nso,nsi->oi", outputs, inputs).view_as(expected), expected)
