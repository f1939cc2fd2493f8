"""A step of Adam and AdamW against torch's own, its tangent against differences, its transpose against the tangent."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hydragrad.steps import RULES, Cotangent, Move, StepPoint, Tangent, tangent_of, transpose_of
from hydragrad.steps.adam import ADAM, ADAMW, AdamOptions

SIZE = 4


@st.composite
def options(draw: st.DrawFn) -> AdamOptions:
    return AdamOptions(
        lr=draw(st.sampled_from([0.01, 0.3])),
        betas=draw(st.sampled_from([(0.9, 0.999), (0.0, 0.5), (0.7, 0.0)])),
        eps=draw(st.sampled_from([1e-8, 0.1])),
        weight_decay=draw(st.sampled_from([0.0, 0.2])),
        amsgrad=draw(st.booleans()),
        maximize=draw(st.booleans()),
        decoupled=draw(st.booleans()),
    )


def group(step: AdamOptions) -> dict:
    entries = {name: value for name, value in vars(step).items() if name != "decoupled"}
    return entries | {"decoupled_weight_decay": step.decoupled}


def torch_steps(steps: list[AdamOptions], w: torch.Tensor, gradients: torch.Tensor) -> nn.Parameter:
    parameter = nn.Parameter(w.clone())
    kind = torch.optim.AdamW if steps[0].decoupled else torch.optim.Adam
    optimizer = kind([parameter], amsgrad=True)  # every state is there from the start
    for each, gradient in zip(steps, gradients, strict=True):
        optimizer.param_groups[0].update(group(each))
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def tensors(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def point(step: AdamOptions, seed: int) -> StepPoint:
    w, m, v, largest, g = tensors(seed, 5, SIZE)
    states = (m, v.square(), largest.square())[: len(ADAM.states(step))]
    return StepPoint(w, states, g)


@given(options(), st.integers(1, 5), st.integers(0, 10))
def test_the_step_is_that_of_torch(step, count, seed):
    w, g = tensors(seed, SIZE), tensors(seed + 1, count, SIZE)
    g[0, 0] = 0.0
    after, states, age = w, (torch.zeros(SIZE, dtype=torch.float64),) * len(ADAM.states(step)), 0
    for gradient in g:
        at, age = ADAM.grow(age, step)
        after, states = ADAM.step(after, states, gradient, Move(step, at))
    torch.testing.assert_close(after, torch_steps([step] * count, w, g), rtol=1e-12, atol=1e-13)


@given(options(), st.integers(1, 9), st.sampled_from([0.0, 0.05]), st.integers(0, 10))
def test_the_tangent_is_that_of_the_step(step, k, rho, seed):
    """Central differences of the step whose root is smoothed, at the moments of the step that is not."""
    here, move = point(step, seed), Move(step, k)
    w_dot, g_dot, *states_dot = tensors(seed + 2, 2 + len(here.states), SIZE)
    tangent = ADAM.tangent(Tangent(w_dot, tuple(states_dot)), g_dot, move, here, rho=rho)
    h, ends = 1e-6, []
    for sign in (1, -1):
        states = tuple(s + sign * h * d for s, d in zip(here.states, states_dot, strict=True))
        moved = (here.weights + sign * h * w_dot, states, here.gradient + sign * h * g_dot)
        ends.append(ADAM.step(*moved, move, rho=rho))
    for value, plus, minus in zip(
        (tangent.w_dot, *tangent.states), (ends[0][0], *ends[0][1]), (ends[1][0], *ends[1][1]), strict=True
    ):
        torch.testing.assert_close(value, (plus - minus) / (2 * h), rtol=1e-5, atol=1e-7)


@given(options(), st.integers(1, 9), st.sampled_from([0.0, 0.05]), st.integers(0, 10))
def test_the_transpose_is_that_of_the_tangent(step, k, rho, seed):
    here, move = point(step, seed), Move(step, k)
    w_dot, g_dot, w_bar, *rest = tensors(seed + 3, 3 + 2 * len(here.states), SIZE)
    states_dot, states_bar = rest[: len(here.states)], rest[len(here.states) :]
    after = ADAM.tangent(Tangent(w_dot, tuple(states_dot)), g_dot, move, here, rho=rho)
    g_bar, before = ADAM.transpose(Cotangent(w_bar, tuple(states_bar)), move, here, rho=rho)
    left = w_bar @ after.w_dot + sum(b @ d for b, d in zip(states_bar, after.states, strict=True))
    right = g_bar @ g_dot + before.w_bar @ w_dot
    right = right + sum(b @ d for b, d in zip(before.states, states_dot, strict=True))
    torch.testing.assert_close(right, left, rtol=1e-10, atol=1e-11)


@given(options(), st.integers(1, 9), st.sampled_from([0.0, 0.05]), st.integers(0, 10))
def test_the_derived_rule_gives_the_same(step, k, rho, seed):
    """Tangent and transpose by autograd of the pure step, of several rows at once and of one."""
    here, move = point(step, seed), Move(step, k)
    rows = tensors(seed + 4, 2 + len(here.states), 3, SIZE)
    first, second, states = rows[0], rows[1], tuple(rows[2:])
    by_hand = ADAM.tangent(Tangent(first, states), second, move, here, rho=rho)
    derived = tangent_of(ADAM.step)(Tangent(first, states), second, move, here, rho=rho)
    torch.testing.assert_close(derived, by_hand, rtol=1e-10, atol=1e-11)
    by_hand = ADAM.transpose(Cotangent(first, states), move, here, rho=rho)
    derived = transpose_of(ADAM.step)(Cotangent(first, states), move, here, rho=rho)
    torch.testing.assert_close(derived, by_hand, rtol=1e-10, atol=1e-11)
    one = transpose_of(ADAM.step)(Cotangent(first[0], tuple(s[0] for s in states)), move, here, rho=rho)
    torch.testing.assert_close(one[0], by_hand[0][0], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("rho", [0.0, 0.01])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_a_coordinate_that_never_had_a_gradient_has_finite_derivatives(amsgrad, rho):
    step = AdamOptions(lr=0.1, amsgrad=amsgrad)
    zero = torch.zeros(SIZE, dtype=torch.float64)
    here = StepPoint(zero + 1, (zero,) * len(ADAM.states(step)), zero)
    cotangent = Cotangent(zero + 1, tuple(zero + 1 for _ in here.states))
    for transpose in (ADAM.transpose, transpose_of(ADAM.step)):
        g_bar, before = transpose(cotangent, Move(step, 3), here, rho=rho)
        assert all(value.isfinite().all() for value in (g_bar, before.w_bar, *before.states))
        # The step follows a small gradient: its slope is that of g / eps, or of g / (sqrt(rho) + eps).
        slope = 0.1 * 0.1 / ((1 - 0.9**3) * (rho**0.5 + 1e-8))
        assert g_bar[0].item() == pytest.approx(0.1 - slope, rel=1e-9)


def test_the_second_moment_is_what_the_step_divides_by():
    step = AdamOptions(lr=0.1, betas=(0.9, 0.5))
    here = StepPoint(torch.zeros(1), (torch.zeros(1), torch.tensor([4.0])), torch.tensor([2.0]))
    assert ADAM.second_moment(here, Move(step, 2)).item() == pytest.approx((0.5 * 4 + 0.5 * 4) / (1 - 0.25))


def test_adamw_is_adam_with_decoupled_decay():
    assert ADAMW.torch_class is torch.optim.AdamW and RULES[torch.optim.AdamW] is ADAMW
    assert ADAMW.step is ADAM.step and ADAMW.transpose is ADAM.transpose


@pytest.mark.parametrize("scale", [1e-15, 1e-8, 1e10])
def test_without_eps_the_derivative_does_not_depend_on_the_scale_of_the_gradient(scale):
    step = AdamOptions(lr=0.1, eps=0.0)
    w, m, g, g_dot = tensors(3, 4, SIZE).float()
    before = Tangent(torch.zeros(SIZE), (torch.zeros(SIZE),) * 2)

    def w_dot(scale: float) -> torch.Tensor:
        at = StepPoint(w, (scale * m, (scale * m).square()), scale * g)
        return ADAM.tangent(before, scale * g_dot, Move(step, 2), at).w_dot

    def w_bar(scale: float) -> torch.Tensor:
        at = StepPoint(w, (scale * m, (scale * m).square()), scale * g)
        after = Cotangent(torch.ones(SIZE), (torch.zeros(SIZE),) * 2)
        return scale * ADAM.transpose(after, Move(step, 2), at)[0]

    torch.testing.assert_close(w_dot(scale), w_dot(1.0), rtol=1e-4, atol=0.0)
    torch.testing.assert_close(w_bar(scale), w_bar(1.0), rtol=1e-4, atol=0.0)
