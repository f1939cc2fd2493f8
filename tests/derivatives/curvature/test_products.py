"""Curvature products of one step against dense matrices."""

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from cases import BATCH_SIZE, Case, collate
from hydragrad.derivatives import (
    Batch,
    CurvatureProducts,
    Layout,
    LossModule,
    Point,
    running_statistics,
    use_explicit_batch_norm,
)
from hydragrad.randomness import preserved, reseed

DIVISOR = 7.0


def prepared(name: str):
    case = Case(name, "plain")
    model = case.build()
    parameters = {key: p.detach() for key, p in model.named_parameters()}
    buffers = {key: b.detach().clone() for key, b in model.named_buffers()}
    weights = Layout({key: p.shape for key, p in parameters.items()})
    statistics = Layout({key: b.shape for key, b in buffers.items() if key in running_statistics(model)})
    batch = Batch(collate(case.train_set, range(BATCH_SIZE)), BATCH_SIZE, 11)
    problem = LossModule(model, case.loss, use_explicit_batch_norm)
    return case, model, problem, weights, statistics, Point(parameters, buffers, batch, DIVISOR)


def cotangents(weights: Layout, statistics: Layout) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(2, layout.size, generator=generator, dtype=torch.float64) for layout in (weights, statistics)
    )


def native(case: Case, model, weights: Layout, point: Point, flat: Tensor) -> tuple[Tensor, Tensor, dict]:
    """Losses, output and buffers after the forward pass, by the model's own kernels."""
    buffers = {key: b.clone() for key, b in point.buffers.items()}
    outputs = []

    def called(*args, **kwargs):
        outputs.append(functional_call(model, weights.views(flat) | buffers, args, kwargs))
        return outputs[-1]

    called.parameters = lambda: list(weights.views(flat).values())
    with preserved():
        reseed(point.batch.seed)
        losses = case.loss(called, point.batch.data)
    return losses, outputs[0], buffers


@pytest.mark.parametrize("name", ["mlp", "convolution", "batch_norm", "dropout", "tied", "penalised", "two_calls"])
def test_hessian_products(name):
    case, model, problem, weights, statistics, point = prepared(name)
    g_bar, r_bar = cotangents(weights, statistics)
    r_bar = torch.zeros_like(r_bar)
    flat = weights.flatten(point.parameters, g_bar)
    dense = torch.autograd.functional.hessian(lambda w: native(case, model, weights, point, w)[0].sum() / DIVISOR, flat)
    step = CurvatureProducts(problem, weights, statistics, gauss_newton=False)(point, g_bar, r_bar)
    torch.testing.assert_close(step.w_bar, g_bar @ dense, rtol=1e-9, atol=1e-12)
    jacobian = torch.autograd.functional.jacobian(lambda w: native(case, model, weights, point, w)[0], flat)
    torch.testing.assert_close(step.along.losses_dot, g_bar @ jacobian.T, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "regression", "convolution", "batch_norm", "dropout", "tied", "two_inputs"])
def test_gauss_newton_products(name):
    case, model, problem, weights, statistics, point = prepared(name)
    g_bar, r_bar = cotangents(weights, statistics)
    r_bar = torch.zeros_like(r_bar)
    flat = weights.flatten(point.parameters, g_bar)
    output = native(case, model, weights, point, flat)[1]
    j = torch.autograd.functional.jacobian(lambda w: native(case, model, weights, point, w)[1].flatten(), flat)
    h = torch.autograd.functional.hessian(
        lambda z: case.model.output_loss(z.view_as(output), point.batch.data).sum() / DIVISOR, output.flatten()
    )
    dense = j.T @ h @ j
    assert torch.linalg.eigvalsh(dense).min() > -1e-10
    products = CurvatureProducts(problem, weights, statistics, gauss_newton=True, with_output=True)
    step = products(point, g_bar, r_bar)
    torch.testing.assert_close(step.w_bar, g_bar @ dense, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(step.along.output_dot.flatten(1), g_bar @ j.T, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gauss_newton", [False, True])
@pytest.mark.parametrize("name", ["batch_norm", "batch_norm_images", "frozen_statistics"])
def test_running_statistics_are_transposed(name, gauss_newton):
    """<r_bar, r_dot'> of the native kernels' update, by differences, is <w_bar, w_dot> + <r_bar before, r_dot>."""
    case, model, problem, weights, statistics, point = prepared(name)
    _, r_bar = cotangents(weights, statistics)
    zero = torch.zeros(2, weights.size, dtype=torch.float64)
    step = CurvatureProducts(problem, weights, statistics, gauss_newton=gauss_newton)(point, zero, r_bar)
    generator = torch.Generator().manual_seed(1)
    w_dot = torch.randn(weights.size, generator=generator, dtype=torch.float64)
    r_dot = torch.randn(statistics.size, generator=generator, dtype=torch.float64)
    h = 1e-6

    def after(sign: int) -> Tensor:
        flat = weights.flatten(point.parameters, zero) + sign * h * w_dot
        moved = {key: point.buffers[key] + sign * h * value for key, value in statistics.views(r_dot).items()}
        there = point._replace(buffers=point.buffers | moved)
        return statistics.flatten(native(case, model, weights, there, flat)[2], zero)

    left = r_bar @ ((after(1) - after(-1)) / (2 * h))
    right = step.w_bar @ w_dot + step.r_bar @ r_dot
    assert (step.w_bar @ w_dot).abs().min() > 1e-3
    torch.testing.assert_close(left, right, rtol=1e-7, atol=1e-9)
