"""Many cotangents in one pass against one at a time."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hydragrad as hg
from cases import BATCH_SIZE, Case, collate
from hydragrad.derivatives import (
    Batch,
    CurvatureProducts,
    Layout,
    LossModule,
    Point,
    VectorisedProducts,
    fastest_products,
    running_statistics,
    use_explicit_batch_norm,
)
from hydragrad.randomness import preserved

HESSIAN = ["mlp", "convolution", "batch_norm", "batch_norm_images", "dropout", "tied", "penalised", "two_calls"]
GAUSS_NEWTON = ["mlp", "regression", "convolution", "batch_norm", "dropout", "tied", "two_inputs"]


def prepared(name: str) -> tuple[LossModule, Layout, Layout, Point, Tensor, Tensor]:
    case = Case(name, "plain")
    model = case.build()
    parameters = {key: p.detach() for key, p in model.named_parameters()}
    buffers = {key: b.detach().clone() for key, b in model.named_buffers()}
    weights = Layout({key: p.shape for key, p in parameters.items()})
    statistics = Layout({key: b.shape for key, b in buffers.items() if key in running_statistics(model)})
    batch = Batch(collate(case.train_set, range(BATCH_SIZE)), BATCH_SIZE, 11)
    generator = torch.Generator().manual_seed(0)
    alpha = torch.rand(BATCH_SIZE, generator=generator, dtype=torch.float64)
    g_bar, r_bar = (torch.randn(5, a.size, generator=generator, dtype=torch.float64) for a in (weights, statistics))
    point = Point(parameters, buffers, batch, 7.0, alpha)
    return LossModule(model, case.loss, use_explicit_batch_norm), weights, statistics, point, g_bar, r_bar


@pytest.mark.parametrize(
    ("name", "gauss_newton"), [(name, False) for name in HESSIAN] + [(name, True) for name in GAUSS_NEWTON]
)
def test_one_pass_gives_what_single_rows_give(name, gauss_newton):
    problem, weights, statistics, point, g_bar, r_bar = prepared(name)
    with preserved():
        single = CurvatureProducts(problem, weights, statistics, gauss_newton=gauss_newton)
        expected = single(point, g_bar, r_bar)
        vectorised = VectorisedProducts(problem, weights, statistics, at_once=3, gauss_newton=gauss_newton)
        found = vectorised(point, g_bar, r_bar)
        assert isinstance(fastest_products(single, point, g_bar, r_bar), VectorisedProducts)
    assert expected.w_bar.abs().max() > 1e-3
    for a, b in zip(
        (found.along.losses, found.along.losses_dot, found.w_bar, found.r_bar),
        (expected.along.losses, expected.along.losses_dot, expected.w_bar, expected.r_bar),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gauss_newton", [False, True])
def test_outputs_come_along(gauss_newton):
    problem, weights, statistics, point, g_bar, r_bar = prepared("mlp")
    options = {"gauss_newton": gauss_newton, "with_output": True}
    with preserved():
        expected = CurvatureProducts(problem, weights, statistics, **options)(point, g_bar, r_bar).along
        found = VectorisedProducts(problem, weights, statistics, at_once=2, **options)(point, g_bar, r_bar).along
    torch.testing.assert_close(found.output, expected.output)
    torch.testing.assert_close(found.output_dot, expected.output_dot)


def test_single_rows_stay_single():
    problem, weights, statistics, point, g_bar, r_bar = prepared("mlp")
    single = CurvatureProducts(problem, weights, statistics, gauss_newton=False)
    assert fastest_products(single, point, g_bar[:1], r_bar[:1]) is single


class Looping(nn.Linear):
    """Asks its input for a number, which a vectorised pass cannot answer."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * (1.0 if y.sum().item() > 0 else 2.0)


@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_what_has_no_batching_rule_goes_row_by_row(tmp_path, curvature):
    torch.manual_seed(0)
    x = torch.randn(12, 3, dtype=torch.float64)
    data = torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long())
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), Looping(4, 2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    run = hg.train(model, loss, data, optimizer, epochs=2, batch_size=4, out=tmp_path / "run")
    both = hg.attribute(run, hg.sample_losses(data, [0, 1]), curvature=curvature).values
    each = [hg.attribute(run, hg.sample_losses(data, [i]), curvature=curvature).values for i in (0, 1)]
    torch.testing.assert_close(both, torch.cat(each))
