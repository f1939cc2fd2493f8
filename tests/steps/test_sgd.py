"""A step's tangent against the real torch.optim.SGD, and its transpose against the tangent."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD

from hydragrad.steps import SGDCotangent, SGDOptions, SGDTangent, tangent_step, transpose_step

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


def torch_steps(history: list[SGDOptions], w: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """The weights after as many steps of torch's optimizer as there are gradients."""
    parameter = nn.Parameter(w.clone())
    optimizer = SGD([parameter], lr=0.1)
    for each, gradient in zip(history, gradients, strict=True):
        optimizer.param_groups[0].update(vars(each))
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@given(st.lists(options(), min_size=1, max_size=5), st.integers(0, 10))
def test_tangent_is_that_of_torch(history, seed):
    """Weights are affine in the gradients, so finite differences of any size are exact."""
    generator = torch.Generator().manual_seed(seed)
    w, w_dot = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    g, g_dot = torch.randn(2, len(history), 3, generator=generator, dtype=torch.float64)
    expected = torch_steps(history, w + w_dot, g + g_dot) - torch_steps(history, w, g)
    state = SGDTangent(w_dot, None)
    for each, along in zip(history, g_dot, strict=True):
        state = tangent_step(state, along, each)
    torch.testing.assert_close(state.w_dot, expected, rtol=1e-10, atol=1e-10)


@given(options(), st.booleans(), st.lists(NUMBERS, min_size=5, max_size=5))
def test_transpose_is_the_transpose_of_the_tangent(step, first, numbers):
    """<u, A v> = <A'u, v> with v = (w_dot, b_dot, g_dot) and u = (w_bar, b_bar)."""
    w_dot, b_dot, g_dot, w_bar, b_bar = numbers
    after = tangent_step(SGDTangent(w_dot, None if first else b_dot), g_dot, step)
    left = w_bar * after.w_dot + b_bar * (after.b_dot if after.b_dot is not None else b_dot)
    first = first and step.momentum > 0
    g_bar, before = transpose_step(SGDCotangent(w_bar, b_bar), step, first=first)
    right = g_bar * g_dot + before.w_bar * w_dot + before.b_bar * b_dot
    assert right == pytest.approx(left, rel=1e-12, abs=1e-12)


@given(options(), st.booleans())
def test_numbers_and_tensors_go_the_same_way(step, first):
    numbers = transpose_step(SGDCotangent(0.7, -0.4), step, first=first)
    tensors = transpose_step(SGDCotangent(*torch.tensor([[0.7], [-0.4]], dtype=torch.float64)), step, first=first)
    assert tensors[0].item() == numbers[0]
    assert [value.item() for value in tensors[1]] == list(numbers[1])


def test_transpose_leaves_its_arguments_alone():
    given = SGDCotangent(torch.ones(2), torch.ones(2))
    transpose_step(given, SGDOptions(lr=0.1, momentum=0.9, weight_decay=0.1), first=False)
    assert all((value == 1).all() for value in given)


@pytest.mark.parametrize("wrong", [{"momentum": 0.0}, {"momentum": 0.9, "dampening": 0.1}])
def test_nesterov_needs_momentum_without_dampening(wrong):
    with pytest.raises(ValueError, match="Nesterov needs momentum"):
        SGDOptions(lr=0.1, nesterov=True, **wrong)
    with pytest.raises(ValueError, match="Nesterov"):
        SGD([nn.Parameter(torch.zeros(1))], lr=0.1, nesterov=True, **wrong)
