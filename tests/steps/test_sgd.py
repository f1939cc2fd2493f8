"""A step of SGD and its tangent against the real torch.optim.SGD, and its transpose against the tangent."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD

from hydragrad.steps import Cotangent, Move, Tangent
from hydragrad.steps.sgd import RULE, SGDOptions

NUMBERS = st.floats(-2, 2, allow_nan=False).map(lambda value: round(value, 3))
RATES = st.floats(0, 1).map(lambda value: round(value, 3))


@st.composite
def options(draw: st.DrawFn) -> SGDOptions:
    momentum = draw(st.sampled_from([0.0, 0.3, 0.9]))
    nesterov = momentum > 0 and draw(st.booleans())
    return SGDOptions(
        lr=draw(RATES),
        momentum=momentum,
        dampening=0.0 if nesterov else draw(RATES),
        weight_decay=draw(RATES),
        nesterov=nesterov,
        maximize=draw(st.booleans()),
    )


def moves(steps: list[SGDOptions]) -> list[Move]:
    has_buffer, result = False, []
    for each in steps:
        creates, has_buffer = RULE.grow(has_buffer, each)
        result.append(Move(each, creates))
    return result


def torch_steps(steps: list[SGDOptions], w: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """The weights after as many steps of torch's optimizer as there are gradients."""
    parameter = nn.Parameter(w.clone())
    optimizer = SGD([parameter], lr=0.1)
    for each, gradient in zip(steps, gradients, strict=True):
        optimizer.param_groups[0].update(vars(each))
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@given(st.lists(options(), min_size=1, max_size=5), st.integers(0, 10))
def test_the_step_is_that_of_torch(steps, seed):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(3, generator=generator, dtype=torch.float64)
    g = torch.randn(len(steps), 3, generator=generator, dtype=torch.float64)
    after, states = w, (torch.zeros_like(w),)
    for move, gradient in zip(moves(steps), g, strict=True):
        after, states = RULE.step(after, states, gradient, move)
    torch.testing.assert_close(after, torch_steps(steps, w, g), rtol=1e-13, atol=1e-13)


@given(st.lists(options(), min_size=1, max_size=5), st.integers(0, 10))
def test_the_tangent_is_that_of_torch(steps, seed):
    """Weights are affine in the gradients, so finite differences of any size are exact."""
    generator = torch.Generator().manual_seed(seed)
    w, w_dot = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    g, g_dot = torch.randn(2, len(steps), 3, generator=generator, dtype=torch.float64)
    expected = torch_steps(steps, w + w_dot, g + g_dot) - torch_steps(steps, w, g)
    state = Tangent(w_dot, (torch.zeros_like(w_dot),))
    for move, along in zip(moves(steps), g_dot, strict=True):
        state = RULE.tangent(state, along, move)
    torch.testing.assert_close(state.w_dot, expected, rtol=1e-10, atol=1e-10)


@given(options(), st.booleans(), st.lists(NUMBERS, min_size=5, max_size=5))
def test_the_transpose_is_that_of_the_tangent(step, first, numbers):
    """<u, A v> = <A'u, v> with v = (w_dot, b_dot, g_dot) and u = (w_bar, b_bar)."""
    w_dot, b_dot, g_dot, w_bar, b_bar = numbers
    move = Move(step, first and step.momentum > 0)
    after = RULE.tangent(Tangent(w_dot, (b_dot,)), g_dot, move)
    left = w_bar * after.w_dot + b_bar * after.states[0]
    g_bar, before = RULE.transpose(Cotangent(w_bar, (b_bar,)), move)
    right = g_bar * g_dot + before.w_bar * w_dot + before.states[0] * b_dot
    assert right == pytest.approx(left, rel=1e-12, abs=1e-12)


@given(options(), st.booleans())
def test_numbers_and_tensors_go_the_same_way(step, first):
    numbers = RULE.transpose(Cotangent(0.7, (-0.4,)), Move(step, first))
    w_bar, b_bar = torch.tensor([[0.7], [-0.4]], dtype=torch.float64)
    tensors = RULE.transpose(Cotangent(w_bar, (b_bar,)), Move(step, first))
    assert tensors[0].item() == numbers[0]
    assert tensors[1].w_bar.item() == numbers[1].w_bar
    assert tensors[1].states[0].item() == numbers[1].states[0]


def test_the_transpose_leaves_its_arguments_alone():
    after = Cotangent(torch.ones(2), (torch.ones(2),))
    RULE.transpose(after, Move(SGDOptions(lr=0.1, momentum=0.9, weight_decay=0.1), False))
    assert (after.w_bar == 1).all() and (after.states[0] == 1).all()


def test_a_step_without_momentum_has_no_state():
    assert RULE.states(SGDOptions(lr=0.1)) == () and len(RULE.states(SGDOptions(lr=0.1, momentum=0.5))) == 1
    after = RULE.tangent(Tangent(1.0, ()), 2.0, Move(SGDOptions(lr=0.1), False))
    assert after == Tangent(0.8, ())


@pytest.mark.parametrize("wrong", [{"momentum": 0.0}, {"momentum": 0.9, "dampening": 0.1}])
def test_nesterov_needs_momentum_without_dampening(wrong):
    with pytest.raises(ValueError, match="Nesterov needs momentum"):
        SGDOptions(lr=0.1, nesterov=True, **wrong)
    with pytest.raises(ValueError, match="Nesterov"):
        SGD([nn.Parameter(torch.zeros(1))], lr=0.1, nesterov=True, **wrong)
