"""Directional derivatives by forward mode against per-sample gradients by autograd."""

import pytest
import torch
from torch import Tensor

from case_models import MODELS
from cases import BATCH_SIZE, Case, collate
from hydragrad.derivatives import Batch, Layout, LossModule, directional_derivatives, works_at_once
from hydragrad.randomness import preserved, reseed

DIRECTIONS = 10
"""More than fit into one vectorised tangent."""


def prepared(name: str):
    case = Case(name, "plain")
    model = case.build()
    parameters = {key: p.detach() for key, p in model.named_parameters()}
    buffers = {key: b.detach().clone() for key, b in model.named_buffers()}
    layout = Layout({key: p.shape for key, p in model.named_parameters()})
    batch = Batch(collate(case.train_set, range(BATCH_SIZE)), BATCH_SIZE, 11)
    problem = LossModule(model, case.loss)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(DIRECTIONS, layout.size, generator=generator, dtype=torch.float64)
    return case, model, (problem, layout, parameters, buffers, batch, directions)


def per_sample(case: Case, model, batch: Batch) -> tuple[Tensor, Tensor]:
    """Losses, and their gradients (batch, parameters), as training would see them."""
    model.requires_grad_(True)
    with preserved():
        reseed(batch.seed)
        losses = case.loss(model, batch.data)
    rows = []
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat([
                (torch.zeros_like(p) if g is None else g).flatten()
                for p, g in zip(model.parameters(), gradients, strict=True)
            ])
        )  # fmt: skip
    return losses.detach(), torch.stack(rows)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_they_are_dot_products_with_the_trained_gradients(name, at_once):
    case, model, given = prepared(name)
    with preserved():
        if at_once and not works_at_once(*given[:-1]):
            pytest.skip("some operation has no batching rule")
        along = directional_derivatives(*given, at_once=at_once)
    losses, gradients = per_sample(case, model, given[4])
    torch.testing.assert_close(along.losses, losses, rtol=1e-12, atol=1e-13)
    expected = given[5] @ gradients.T
    assert along.losses_dot.shape == (DIRECTIONS, BATCH_SIZE)
    assert float((along.losses_dot - expected).norm() / expected.norm()) < 1e-11
    assert along.output is None and along.output_dot is None


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("name", ["mlp", "dropout", "tied", "two_inputs"])
def test_the_outputs_derivative_is_its_difference(name, at_once):
    _, _, given = prepared(name)
    problem, layout, parameters, buffers, batch, directions = given
    h = 1e-6

    def output(sign: int) -> Tensor:
        moved = {key: parameters[key] + sign * h * d for key, d in layout.views(directions[3]).items()}
        result = directional_derivatives(problem, layout, moved, buffers, batch, directions[:1], with_output=True)
        assert result.output is not None
        return result.output

    with preserved():
        along = directional_derivatives(*given, with_output=True, at_once=at_once)
        expected = (output(1) - output(-1)) / (2 * h)
    torch.testing.assert_close(along.output_dot[3], expected, rtol=1e-7, atol=1e-8)


def test_parameters_outside_the_layout_stand_still():
    case, model, given = prepared("mlp")
    problem, _, parameters, buffers, batch, _ = given
    layout = Layout({"2.bias": parameters["2.bias"].shape})
    direction = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    with preserved():
        along = directional_derivatives(problem, layout, parameters, buffers, batch, direction)
    _, gradients = per_sample(case, model, batch)
    torch.testing.assert_close(along.losses_dot[0], gradients[:, -3:] @ direction[0])


def test_buffers_and_model_are_left_alone():
    _, model, given = prepared("batch_norm")
    before = {key: b.clone() for key, b in given[3].items()}
    with preserved():
        directional_derivatives(*given)
    assert all(torch.equal(b, before[key]) for key, b in given[3].items())
    assert all(torch.equal(b, before[key]) for key, b in model.named_buffers())
