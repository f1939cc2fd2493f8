"""Influence functions of models without a forward-mode rule, or with a wrong one: those of torch's operation."""

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable

import hydragrad as hg
from hydragrad.errors import Unsupported
from trained_elsewhere.states import data, loss


class Right(torch.autograd.Function):
    """x squared, without a forward-mode rule."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class WrongForward(torch.autograd.Function):
    """The same, with a forward-mode rule that is off by a factor."""

    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        (x,) = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    backward = Right.backward

    @staticmethod
    def jvp(ctx, tangent):
        (x,) = ctx.saved_tensors
        return x * tangent


class Once(torch.autograd.Function):
    """The same, without a forward-mode rule and with a backward pass that has no derivative."""

    forward = Right.forward

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class Squared(nn.Module):
    def __init__(self, square):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.square = nn.Linear(4, 5), nn.Linear(5, 3), square
        self.double()

    def forward(self, x):
        return self.last(self.square(self.first(x) / 2))


def opened(square):
    return hg.Checkpoints(Squared(square).state_dict(), Squared(square), loss, data(24, 0))


@pytest.mark.parametrize("function", [Right, WrongForward])
@pytest.mark.parametrize("several", [False, True])
def test_reverse_mode_is_taken_where_forward_mode_does_not_agree(function, several):
    held_out = data(12, 1)
    queries = hg.sample_losses(held_out, [3, 4, 7]) if several else hg.mean_loss(held_out)
    expected = hg.influence(opened(torch.square), queries, damping=0.05, tolerance=1e-10)
    ours = hg.influence(opened(function.apply), queries, damping=0.05, tolerance=1e-10)
    assert expected.values.abs().max() > 1e-4
    torch.testing.assert_close(ours.values, expected.values, rtol=1e-6, atol=1e-10)
    by_gradients = hg.tracin(opened(torch.square), queries, rates=0.1)
    torch.testing.assert_close(hg.tracin(opened(function.apply), queries, rates=0.1).values, by_gradients.values)


def test_a_backward_pass_without_a_derivative_leaves_tracin():
    query = hg.mean_loss(data(12, 1))
    with pytest.raises(Unsupported, match=r"forward or twice backward; the model has one without: .*take hg.tracin"):
        hg.influence(opened(Once.apply), query)
    torch.testing.assert_close(
        hg.tracin(opened(Once.apply), query, rates=0.1).values, hg.tracin(opened(torch.square), query, rates=0.1).values
    )
