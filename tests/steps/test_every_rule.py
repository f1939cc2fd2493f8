"""Every rule against torch's own optimizer: the step, its tangent against differences, its transpose."""

import math

import pytest
import torch
from torch import nn
from torch.optim import ASGD, Adadelta, Adafactor, Adagrad, Adamax, NAdam, RAdam, RMSprop

from hydragrad.steps import Cotangent, Move, StepPoint, Tangent, muon, read_group, rule_of
from hydragrad.torch_release import MUON

STEPS, SHAPE = 12, (3, 4)
CASES = {
    "nadam": (NAdam, {"lr": 0.02, "weight_decay": 0.1}),
    "nadam decoupled": (
        NAdam,
        {
            "lr": 0.02,
            "weight_decay": 0.1,
            "decoupled_weight_decay": True,
            "maximize": True,
            "betas": (0.7, 0.9),
            "momentum_decay": 0.1,
        },
    ),
    "radam": (RAdam, {"lr": 0.02, "weight_decay": 0.1}),  # rectified from step 6 on
    "radam early": (RAdam, {"lr": 0.02, "betas": (0.8, 0.9)}),
    "radam decoupled": (RAdam, {"lr": 0.02, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    "adamax": (Adamax, {"lr": 0.02, "betas": (0.8, 0.7), "weight_decay": 0.1}),
    "adamax up": (Adamax, {"lr": 0.02, "eps": 0.1, "maximize": True}),
    "rmsprop": (RMSprop, {"lr": 0.02, "weight_decay": 0.1, "alpha": 0.8}),
    "rmsprop momentum": (RMSprop, {"lr": 0.02, "momentum": 0.6, "maximize": True}),
    "rmsprop centered": (RMSprop, {"lr": 0.02, "centered": True, "alpha": 0.7, "eps": 0.01}),
    "rmsprop all": (RMSprop, {"lr": 0.02, "centered": True, "momentum": 0.5, "alpha": 0.7, "weight_decay": 0.1}),
    "adagrad": (Adagrad, {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1}),
    "adagrad initial": (Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.5, "eps": 0.1, "maximize": True}),
    "adadelta": (Adadelta, {"lr": 0.7, "rho": 0.8, "weight_decay": 0.1}),
    "adadelta up": (Adadelta, {"eps": 0.01, "maximize": True}),
    "asgd": (ASGD, {"lr": 0.1, "lambd": 0.1, "weight_decay": 0.1, "t0": 3}),
    "asgd up": (ASGD, {"lr": 0.1, "lambd": 0.05, "alpha": 0.5, "maximize": True}),
    "adafactor": (Adafactor, {"lr": 0.1, "weight_decay": 0.1}),
    "adafactor clipped": (Adafactor, {"lr": 0.5, "beta2_decay": -0.3, "eps": (1e-3, 2.0), "maximize": True}),
    "adafactor vector": (Adafactor, {"lr": 0.1, "weight_decay": 0.1}),
    "adafactor images": (Adafactor, {"lr": 0.1}),
    "muon": (MUON, {"lr": 0.1, "weight_decay": 0.1}),
    "muon tall": (MUON, {"lr": 0.1, "nesterov": False, "momentum": 0.5}),
    "muon rms": (MUON, {"lr": 0.1, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 3}),
}
SHAPES = {"adafactor vector": (5,), "adafactor images": (2, 3, 4), "muon tall": (5, 3)}
CASES = {name: (*settings, SHAPES.get(name, SHAPE)) for name, settings in CASES.items()}
SMOOTHED = [name for name, (kind, *_) in CASES.items() if kind not in (ASGD, MUON)]


@pytest.fixture(params=CASES)
def case(request):
    kind, *_ = CASES[request.param]
    if kind is None:
        pytest.skip("torch has no Muon before 2.9")
    return CASES[request.param]


@pytest.fixture
def unrounded(monkeypatch):
    """Muon's own Newton-Schulz steps are in bfloat16, whose rounding has no derivative."""
    monkeypatch.setattr(muon, "PRECISION", torch.float64)


def tensors(seed: int, count: int, shape) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def like(seed: int, values, *rows: int) -> tuple[torch.Tensor, ...]:
    """Random tensors like others."""
    return tuple(
        tensors(100 * seed + i, math.prod(rows), value.shape).view(*rows, *value.shape)
        for i, value in enumerate(values)
    )


class Real:
    """torch's optimizer on one parameter, whose rate falls from step to step."""

    def __init__(self, kind, options, shape, **kernel) -> None:
        self.parameter = nn.Parameter(tensors(0, 1, shape)[0])
        self.optimizer = kind([self.parameter], **options, **kernel)
        self.rule = rule_of(self.optimizer)
        self.age = self.rule.age(self.optimizer.state.get(self.parameter, {}))

    def arrange(self, step: int, g: torch.Tensor) -> None:
        group = self.optimizer.param_groups[0]
        group["lr"] = group["lr"] * 0.9 if step else group["lr"]
        self.parameter.grad = g.clone()
        self.options = self.rule.read(read_group(self.rule, group))

    def point(self) -> StepPoint:
        kept = self.optimizer.state.get(self.parameter, {})
        names = self.rule.states(self.options)
        zeros = {
            name: self.parameter.new_zeros(self.rule.state_shape(name, tuple(self.parameter.shape))) for name in names
        }
        states = tuple(kept.get(name, zeros[name]).detach().clone() for name in names)
        return StepPoint(self.parameter.detach().clone(), states, self.parameter.grad.clone())

    def take_step(self) -> tuple[Move, StepPoint]:
        here = self.point()
        at, self.age = self.rule.grow(self.age, self.options)
        self.optimizer.step()
        return Move(self.options, at), here


def steps(kind, options, shape, **kernel):
    real, gradients = Real(kind, options, shape, **kernel), tensors(1, STEPS, shape)
    gradients.view(STEPS, -1)[:, 0] = 0.0  # never had a gradient
    for number, g in enumerate(gradients):
        real.arrange(number, g)
        yield real, *real.take_step()


@pytest.mark.parametrize("foreach", [False, True])
def test_the_step_is_that_of_torch(case, foreach):
    kernel = {} if case[0] is MUON else {"foreach": foreach}
    for real, move, here in steps(*case, **kernel):
        after, states = real.rule.step(*here, move)
        # Numbers that torch keeps in float32 are not rounded alike by all of its kernels.
        close = {"rtol": 1e-6 if foreach else 1e-12, "atol": 1e-8 if foreach else 1e-13}
        torch.testing.assert_close(after, real.parameter.detach(), **close)
        for name, state in zip(real.rule.states(move.options), states, strict=True):
            if name in real.optimizer.state[real.parameter]:
                torch.testing.assert_close(state, real.optimizer.state[real.parameter][name], **close)


def test_the_step_is_that_of_torchs_fused_kernel():
    for real, move, here in steps(*CASES["adagrad"], fused=True):
        after, _ = real.rule.step(*here, move)
        torch.testing.assert_close(after, real.parameter.detach(), rtol=1e-7, atol=1e-9)


def test_the_age_is_that_of_torchs_own_state(case):
    for real, _, _ in steps(*case):
        assert real.rule.age(real.optimizer.state[real.parameter]) == real.age
        assert hash(real.age) is not None


def away_from_zero(here: StepPoint) -> StepPoint:
    """Differences need a neighbourhood in which the step is smooth."""
    return StepPoint(
        here.weights,
        tuple(torch.where(state.abs() < 0.05, 0.3, state) for state in here.states),
        torch.where(here.gradient.abs() < 0.05, 0.2, here.gradient),
    )


@pytest.mark.parametrize("share", [0.0, 0.05])
def test_the_tangent_is_that_of_the_step(case, share, unrounded):
    for number, (real, move, before) in enumerate(steps(*case)):
        if number not in (0, 2, 11):
            continue
        here, rule = away_from_zero(before), real.rule
        rho = 0.0 if rule.second_moment is None else share
        w_dot, g_dot, *states_dot = like(number + 2, (here.weights, here.gradient, *here.states))
        after = rule.tangent(Tangent(w_dot, tuple(states_dot)), g_dot, move, here, rho=rho)
        h, ends = 1e-6, []
        for sign in (1, -1):
            states = tuple(s + sign * h * d for s, d in zip(here.states, states_dot, strict=True))
            ends.append(
                rule.step(here.weights + sign * h * w_dot, states, here.gradient + sign * h * g_dot, move, rho=rho)
            )
        for value, plus, minus in zip(
            (after.w_dot, *after.states), (ends[0][0], *ends[0][1]), (ends[1][0], *ends[1][1]), strict=True
        ):
            torch.testing.assert_close(value, (plus - minus) / (2 * h), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("rows", [(), (2,)])
@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_the_transpose_is_that_of_the_tangent(case, rho, rows):
    for number, (real, move, here) in enumerate(steps(*case)):
        w_dot, g_dot, *states_dot = like(number + 3, (here.weights, here.gradient, *here.states), *rows)
        w_bar, *states_bar = like(number + 50, (here.weights, *here.states), *rows)
        states_dot, states_bar = tuple(states_dot), tuple(states_bar)
        after = real.rule.tangent(Tangent(w_dot, states_dot), g_dot, move, here, rho=rho)
        g_bar, before = real.rule.transpose(Cotangent(w_bar, states_bar), move, here, rho=rho)
        left = (w_bar * after.w_dot).sum()
        left = left + sum((b * d).sum() for b, d in zip(states_bar, after.states, strict=True))
        right = (g_bar * g_dot).sum() + (before.w_bar * w_dot).sum()
        right = right + sum((b * d).sum() for b, d in zip(before.states, states_dot, strict=True))
        torch.testing.assert_close(right, left, rtol=1e-9, atol=1e-10)
        assert left.isfinite()


@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_derivatives_are_finite_where_everything_is_zero(case, rho):
    real, move, here = next(steps(*case))
    zero = StepPoint(here.weights * 0, tuple(state * 0 for state in here.states), here.gradient * 0)
    w_bar, *states_bar = like(7, (zero.weights, *zero.states), 2)
    g_bar, before = real.rule.transpose(Cotangent(w_bar, tuple(states_bar)), move, zero, rho=rho)
    after = real.rule.tangent(Tangent(w_bar, tuple(states_bar)), w_bar, move, zero, rho=rho)
    for value in (g_bar, before.w_bar, *before.states, after.w_dot, *after.states):
        assert value.isfinite().all()


@pytest.mark.parametrize("name", SMOOTHED)
def test_smoothing_is_that_of_the_root_that_divides(name):
    """With the same amount under every root, tiny gradients have a bounded derivative."""
    *_, (real, move, here) = steps(*CASES[name])
    moment = real.rule.second_moment(here, move)
    assert moment.shape == here.weights.shape and (moment >= 0).all()
    tiny = StepPoint(here.weights * 0, tuple(state * 1e-12 for state in here.states), here.gradient * 1e-12)
    after = Cotangent(torch.ones_like(here.weights), tuple(torch.zeros_like(state) for state in here.states))
    smooth = real.rule.transpose(after, move, tiny, rho=1.0)[0].abs().max()
    exact = real.rule.transpose(after, move, tiny)[0].abs().max()
    assert smooth < 2 and math.isfinite(exact) and exact > 2 * smooth


def test_radam_divides_by_no_root_in_its_first_steps():
    moments = [real.rule.second_moment(here, move).numel() for real, move, here in steps(*CASES["radam"])]
    assert moments[:5] == [0] * 5 and all(moments[5:])
