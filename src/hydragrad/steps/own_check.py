"""A registered step held to the real optimizer when that is first used: a few steps on small random parameters."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from hydragrad.errors import HydragradError, Unsupported
from hydragrad.randomness import preserved
from hydragrad.steps.rule import Cotangent, Move, Shape, StepPoint, StepRule, Tangent
from hydragrad.steps.rules import read_group

STEPS = 8
SIZE = 4
"""Of a dimension, at most."""
TOLERANCE = 1e-5
"""Of the move: more than the rounding of numbers that an optimizer keeps in float32."""
ROUNDINGS = 64
"""Of the values."""
SMOOTHING = 0.01
"""Of a step that takes rho, in its derivative."""

_held: dict[Any, StepRule] = {}
"""What was compared already: a rule (kept, so that its id stays its own), options, and a shape."""


class _Made(NamedTuple):
    """A step that was made, and where."""

    move: Move
    point: StepPoint


def require_same_step(rule: StepRule, optimizer: Optimizer) -> None:
    """Hold a rule to the real class, under the options of an optimizer.

    Args:
        rule: Of the optimizer's class.
        optimizer: Is left alone.

    Raises:
        Unsupported: The step differs, or has no useful derivative; says where and by how much.
    """
    for group in optimizer.param_groups:
        options = {name: value for name, value in group.items() if name != "params"}
        for shape in {
            p.dim(): tuple(min(SIZE, size) for size in p.shape) for p in group["params"] if p.numel()
        }.values():
            key = id(rule), rule.read(read_group(rule, options)), shape
            if key not in _held:
                with preserved():
                    _require_derivative(rule, list(_compared(rule, options, shape)))
                _held[key] = rule


def _compared(rule: StepRule, options: Mapping[str, Any], shape: Shape) -> Iterator[_Made]:
    """Make steps with the real optimizer and with the rule; yield them."""
    generator = torch.Generator().manual_seed(0)
    parameter = Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
    real = rule.bare(options, parameter)
    real.param_groups = [{**options, "params": [parameter]}]
    age = rule.age(real.state.get(parameter, {}))
    for number in range(1, STEPS + 1):
        parameter.grad = torch.randn(shape, generator=generator, dtype=torch.float64)
        parameter.grad.view(-1)[:1] = 0.0  # a coordinate that never has a gradient
        in_force = rule.read(read_group(rule, real.param_groups[0]))
        at, age = rule.grow(age, in_force)
        made = _Made(Move(in_force, at), _point(rule, in_force, parameter, real))
        expected = _predicted(rule, made)
        _take_step(rule, real)
        entries = real.state.get(parameter, {})
        _require_states(rule, in_force, entries, age)
        names = rule.states(in_force)
        before = {"the weights": made.point.weights} | dict(zip(names, made.point.states, strict=True))
        after = {"the weights": parameter.detach()} | {name: torch.as_tensor(entries[name]) for name in names}
        for what, value in zip(before, expected, strict=True):
            _require_close(rule, f"{what} of a parameter of shape {shape}", number, before[what], value, after[what])
        yield made


def _point(rule: StepRule, in_force: Any, parameter: Parameter, real: Optimizer) -> StepPoint:
    entries, shape = real.state.get(parameter, {}), tuple(parameter.shape)
    zeros = {name: parameter.new_zeros(rule.state_shape(name, shape)) for name in rule.states(in_force)}
    large = sorted(name for name, zero in zeros.items() if zero.numel() > parameter.numel())
    if large:
        raise Unsupported(
            f"A state must not be larger than its parameter; {large} of {rule.torch_class.__name__} are, at shape "
            f"{shape}. Leave them out of states=."
        )
    assert parameter.grad is not None
    states = tuple(torch.as_tensor(entries.get(name, zero)).detach().clone() for name, zero in zeros.items())
    return StepPoint(parameter.detach().clone(), states, parameter.grad.clone())


def _predicted(rule: StepRule, made: _Made) -> tuple[Tensor, ...]:
    w, states, g = made.point
    given = (w.clone(), tuple(state.clone() for state in states), g.clone())
    try:
        after, states_after = rule.step(*given, made.move)
    except HydragradError:
        raise
    except Exception as error:
        raise Unsupported(f"{_step_of(rule)} failed: {type(error).__name__}: {error}.") from error
    if any(not torch.equal(a, b) for a, b in zip((w, g, *states), (given[0], given[2], *given[1]), strict=True)):
        raise Unsupported(f"{_step_of(rule)} changed its arguments in place. Return new tensors.")
    return after, *states_after


def _take_step(rule: StepRule, real: Optimizer) -> None:
    try:
        real.step()
    except Exception as error:
        raise Unsupported(
            f"{rule.torch_class.__name__} must step without arguments and on parameters of any size; a small check "
            f"failed: {type(error).__name__}: {error}. An optimizer that needs more than gradients can't be registered."
        ) from error


def _require_states(rule: StepRule, in_force: Any, entries: Mapping[str, Any], age: Any) -> None:
    missing = sorted(set(rule.states(in_force)) - set(entries))
    if missing:
        raise Unsupported(
            f"{rule.torch_class.__name__} keeps no state {missing} of a parameter; it keeps {sorted(entries)}. "
            f"Register it with states= of these names."
        )
    if rule.age(entries) != age:
        raise Unsupported(
            f"{_step_of(rule)} takes age, which the optimizer must count as state['step'] of every parameter; where "
            f"{age} was expected it holds {entries.get('step')!r}. Write the step without age, or count there."
        )


def _require_close(rule: StepRule, what: str, number: int, before: Tensor, expected: Tensor, actual: Tensor) -> None:
    if expected.shape != actual.shape:
        raise Unsupported(
            f"{_step_of(rule)} gave {what} the shape {tuple(expected.shape)}; that of the optimizer is "
            f"{tuple(actual.shape)}. Register it with state_shapes=."
        )
    moved, distance = (actual - before).norm(), (actual - expected).norm()
    if not distance <= TOLERANCE * moved + ROUNDINGS * torch.finfo(before.dtype).eps * actual.norm():
        raise Unsupported(
            f"{_step_of(rule)} must equal that of the optimizer. At step {number} of a small check {what} differ by "
            f"{float(distance):.1e}, where they move by {float(moved):.1e}. Correct step=, or name every option that "
            f"it depends on."
        )


def _require_derivative(rule: StepRule, steps: list[_Made]) -> None:
    """Pull a cotangent back through the steps: two rows at once, without and with smoothing."""
    rhos = (0.0,) if rule.second_moment is None else (0.0, SMOOTHING)
    try:
        sizes = [_slope(rule, steps, rho) for rho in rhos]
    except Exception as error:
        raise Unsupported(
            f"{_step_of(rule)} can't be differentiated by torch.func: {type(error).__name__}: {error}. Write it as a "
            f"pure function of tensors."
        ) from error
    if any(size != size or size == float("inf") for size in sizes):
        raise Unsupported(
            f"{_step_of(rule)} has a derivative that is not finite where a coordinate never had a gradient. Write "
            f"roots and quotients so that theirs is 0 at 0: torch.where around the argument and the result."
        )
    moved = not torch.equal(
        steps[0].point.weights, steps[-1].point.weights
    )  # not where a warm-up begins at a rate of 0
    if moved and sizes[-1] == 0:
        raise Unsupported(
            f"{_step_of(rule)} has a derivative of 0 by every gradient, as signs have: contributions would be 0 and "
            f"predict nothing. Write a sign as x / sqrt(x**2 + rho), with an argument rho and second_moment= of x**2."
        )


def _slope(rule: StepRule, steps: list[_Made], rho: float) -> float:
    """Size of the derivatives of the last weights by all gradients."""
    w_bar, *states_bar = (
        value.new_ones(2, *value.shape) for value in (steps[-1].point.weights, *steps[-1].point.states)
    )
    after, total = Cotangent(w_bar, tuple(state * 0 for state in states_bar)), torch.zeros((), dtype=torch.float64)
    for move, point in reversed(steps):
        g_bar, after = rule.transpose(after, move, point, rho=rho)
        rule.tangent(Tangent(after.w_bar, after.states), g_bar, move, point, rho=rho)
        total = total + g_bar.abs().sum() + 0 * sum(state.sum() for state in after.states)
    return float(total)


def _step_of(rule: StepRule) -> str:
    return f"The step registered for {rule.torch_class.__name__}"
