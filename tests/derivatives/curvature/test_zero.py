"""Products without curvature: dot products with the gradients of single samples, and nothing else."""

import pytest
import torch
from torch import Tensor, nn

from cases import BATCH_SIZE, Case, collate
from hydragrad.derivatives import (
    Batch,
    CurvatureProducts,
    Layout,
    LossModule,
    Point,
    ZeroCurvature,
    running_statistics,
    use_explicit_batch_norm,
)
from hydragrad.derivatives.curvature import zero
from hydragrad.randomness import preserved, reseed

ROWS = 3
MODELS = ["mlp", "batch_norm", "batch_norm_images", "dropout", "tied", "transformer"]


def prepared(name: str):
    case = Case(name, "plain")
    model = case.build()
    parameters = {key: p.detach() for key, p in model.named_parameters()}
    buffers = {key: b.detach().clone() for key, b in model.named_buffers()}
    weights = Layout({key: p.shape for key, p in parameters.items()})
    statistics = Layout({key: b.shape for key, b in buffers.items() if key in running_statistics(model)})
    batch = Batch(collate(case.train_set, range(BATCH_SIZE)), BATCH_SIZE, 11)
    generator = torch.Generator().manual_seed(0)
    alpha = torch.rand(BATCH_SIZE, generator=generator, dtype=torch.float64)
    g_bar, r_bar = (torch.randn(ROWS, a.size, generator=generator, dtype=torch.float64) for a in (weights, statistics))
    return case, model, weights, statistics, Point(parameters, buffers, batch, 7.0, alpha), g_bar, r_bar


def per_sample(case: Case, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Losses, and their gradients (batch, parameters), as training would see them."""
    with preserved():
        reseed(batch.seed)
        losses = case.loss(model, batch.data)
    named = list(model.parameters())
    rows = [torch.autograd.grad(loss, named, retain_graph=True, materialize_grads=True) for loss in losses]
    return losses.detach(), torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


@pytest.mark.parametrize("rows", [1, ROWS])
@pytest.mark.parametrize("prepare", [None, use_explicit_batch_norm])
@pytest.mark.parametrize("name", MODELS)
def test_derivatives_are_dot_products_with_the_gradients_of_single_samples(name, prepare, rows):
    case, model, weights, _, point, g_bar, r_bar = prepared(name)
    losses, gradients = per_sample(case, model, point.batch)
    products = ZeroCurvature(LossModule(case.build(), case.loss, prepare), weights)
    with preserved():
        step = products(point, g_bar[:rows], r_bar[:rows])
    expected = g_bar[:rows] @ gradients.T
    assert expected.abs().min() > 1e-6
    torch.testing.assert_close(step.along.losses_dot, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(step.along.losses, losses, rtol=1e-12, atol=1e-13)
    assert step.along.output is None and step.along.output_dot is None


@pytest.mark.parametrize("name", ["mlp", "batch_norm", "dropout"])
def test_what_goes_along_is_the_same_as_with_curvature(name):
    case, model, weights, statistics, point, g_bar, r_bar = prepared(name)
    problem = LossModule(model, case.loss, use_explicit_batch_norm)
    with preserved():
        options = {"gauss_newton": False, "with_output": True}
        expected = CurvatureProducts(problem, weights, statistics, **options)(point, g_bar, r_bar)
        step = ZeroCurvature(problem, weights, with_output=True)(point, g_bar, r_bar)
    for actual, wanted in zip(step.along, expected.along, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-13)
    assert expected.w_bar.abs().max() > 1e-3
    assert step.w_bar.shape == expected.w_bar.shape and not step.w_bar.any()
    assert step.w_bar.data_ptr() != g_bar.data_ptr()
    assert torch.equal(step.r_bar, r_bar)


def test_several_rows_are_vectorised_where_that_works_decided_once(monkeypatch):
    case, model, weights, _, point, g_bar, r_bar = prepared("mlp")
    decisions, taken = [], []
    works_at_once, derivatives = zero.works_at_once, zero.directional_derivatives

    def decide(*where):
        decisions.append(works_at_once(*where))
        return decisions[-1]

    def differentiate(*where, at_once, **options):
        taken.append(at_once)
        return derivatives(*where, at_once=at_once, **options)

    monkeypatch.setattr(zero, "works_at_once", decide)
    monkeypatch.setattr(zero, "directional_derivatives", differentiate)
    products = ZeroCurvature(LossModule(model, case.loss), weights)
    with preserved():
        for rows in (1, ROWS, ROWS, 1):
            products(point, g_bar[:rows], r_bar[:rows])
    assert decisions == [True] and taken == [False, True, True, True]


class Looping(nn.Linear):
    """Reads a number off its input, which a vectorised pass cannot do."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * (1.0 if y.sum().item() > 0 else 2.0)


def test_what_has_no_batching_rule_goes_row_by_row():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), Looping(4, 1)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    weights = Layout({key: p.shape for key, p in model.named_parameters()})
    point = Point({key: p.detach() for key, p in model.named_parameters()}, {}, Batch(x, 5, 0), 5.0)
    g_bar = torch.randn(2, weights.size, dtype=torch.float64)
    products = ZeroCurvature(LossModule(model, lambda model, x: model(x)[:, 0].square()), weights)
    with preserved():
        both = products(point, g_bar, g_bar.new_zeros(2, 0))
        each = [products(point, row[None], g_bar.new_zeros(1, 0)) for row in g_bar]
    assert torch.equal(both.along.losses_dot, torch.cat([step.along.losses_dot for step in each]))
