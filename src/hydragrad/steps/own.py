"""Optimizers of the user's own: a rule made of a pure function that equals the optimizer's step."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from hydragrad.errors import Unsupported
from hydragrad.steps.by_autograd import tangent_of, transpose_of
from hydragrad.steps.own_check import require_same_step
from hydragrad.steps.rule import TENSOR, Move, Shape, StepPoint, StepRule, class_name, one_step_more, steps_so_far
from hydragrad.steps.rules import RULES

Function = Callable[..., Any]

NEEDED, OPTIONAL = ("w", "states", "g", "options"), ("age", "rho")
"""Arguments of a step."""


@dataclass(frozen=True, kw_only=True)
class Registration:
    """What `register_optimizer` was given."""

    optimizer: type[Optimizer]
    step: Function
    options: tuple[str, ...]
    states: tuple[str, ...]
    second_moment: Function | None
    state_shapes: Mapping[str, Callable[[Shape], Shape]]

    @property
    def extra(self) -> tuple[str, ...]:
        """The optional arguments that the step takes."""
        return tuple(name for name in inspect.signature(self.step).parameters if name in OPTIONAL)


@dataclass(frozen=True)
class OwnOptions:
    """The options in force for one parameter at one step, as the user's function gets them."""

    entries: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class OwnRule(StepRule):
    """The rule of a registered optimizer; a copy in another process registers it there."""

    registration: Registration = field(repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return _add, (self.registration,)


def register_optimizer(
    optimizer: type[Optimizer],
    *,
    step: Function,
    options: Sequence[str],
    states: Sequence[str] = (),
    second_moment: Function | None = None,
    state_shapes: Mapping[str, Callable[[Shape], Shape]] | None = None,
) -> None:
    """Make an optimizer of your own known, by a pure function that equals its step.

    Derivatives are taken of the function by `torch.func`. It is held to the real optimizer: on small random parameters
    when the optimizer is first used, at the checked steps of every recording, and by every replay. Register it in every
    process that records with it or opens its runs.

    Args:
        optimizer: The class, exactly; replays make objects of it, of those options that its constructor takes.
        step: `step(w, states, g, options) -> (w after, states after)` of one parameter in its own shape, without
            changing its arguments. `states` holds tensors by name, zero before the first step; what is not returned
            stays as it is. `options` holds the entries of the parameter group, tensors as numbers. Where it has an
            argument `age`, that is the number of the parameter's step, from 1, which the optimizer must count as its
            state `step`. Where it has an argument `rho`, that is added under the roots of second moments (0 in the
            step itself), and `second_moment` is needed. Roots and quotients need finite derivatives at 0.
        options: Every entry of a parameter group that the optimizer uses; other entries are refused.
        states: The state tensors that the step takes and gives, as `optimizer.state[parameter]` names them.
        second_moment: `second_moment(w, states, g, options)`, with `age` where the step has it: the tensor that `rho`
            is a share of the mean of.
        state_shapes: By name, the shape of a state for a parameter's shape, where it is another one: no larger.

    Raises:
        Unsupported: A class with a rule of hydragrad's, or functions that lack or have other arguments.
    """
    _add(
        Registration(
            optimizer=optimizer,
            step=step,
            options=_names("options", options),
            states=_names("states", states),
            second_moment=second_moment,
            state_shapes=dict(state_shapes or {}),
        )
    )


def _add(registration: Registration) -> OwnRule:
    kind = registration.optimizer
    _require_sound(registration)
    for known, rule in list(RULES.items()):
        if rule.name == class_name(kind) and isinstance(rule, OwnRule):
            del RULES[known]  # a class that was defined again, as notebooks do
    rule = _rule(registration)
    RULES[kind] = rule
    return rule


def _require_sound(registration: Registration) -> None:
    kind, extra = registration.optimizer, registration.extra
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise Unsupported(f"register_optimizer takes a class of optimizers (torch.optim.Optimizer), got {kind!r}.")
    if kind in RULES and not isinstance(RULES[kind], OwnRule):
        raise Unsupported(f"{class_name(kind)} has a rule already. Register only optimizers of your own.")
    arguments = tuple(inspect.signature(registration.step).parameters)
    if len(arguments) != len(NEEDED) + len(extra) or set(arguments[: len(NEEDED)]) & set(OPTIONAL):
        raise Unsupported(
            f"step must take ({', '.join(NEEDED)}), and may take age and rho by name after them; that of "
            f"{kind.__name__} takes ({', '.join(arguments)})."
        )
    if ("rho" in extra) != (registration.second_moment is not None):
        raise Unsupported(
            f"step takes rho exactly where second_moment= says what it is a share of; for {kind.__name__} there is "
            f"only one of the two. Give both or none."
        )
    unknown = sorted(set(registration.state_shapes) - set(registration.states))
    if unknown:
        raise Unsupported(f"state_shapes must name some of states={registration.states}, got {unknown}.")


def _rule(registration: Registration) -> OwnRule:
    step, counts = partial(_step, registration), "age" in registration.extra
    return OwnRule(
        torch_class=registration.optimizer,
        options=registration.options,
        kernels=(),
        read=partial(_read, registration),
        states=lambda options: registration.states,
        age=steps_so_far if counts else lambda state: 0,
        grow=one_step_more if counts else lambda age, options: (0, 0),
        step=step,
        tangent=tangent_of(step),
        transpose=transpose_of(step),
        second_moment=partial(_second_moment, registration) if registration.second_moment else None,
        elementwise=False,
        construct=partial(_construct, registration.optimizer),
        state_shape=lambda name, shape: tuple(registration.state_shapes.get(name, tuple)(shape)),
        check=require_same_step,
        registration=registration,
    )


def _step(
    registration: Registration, w: Tensor, states: tuple[Tensor, ...], g: Tensor, move: Move, *, rho: float = 0.0
) -> tuple[Tensor, tuple[Tensor, ...]]:
    named = dict(zip(registration.states, states, strict=True))
    given = {name: value for name, value in (("age", move.age), ("rho", rho)) if name in registration.extra}
    after, changed = registration.step(w, dict(named), g, dict(move.options.entries), **given)
    unknown = sorted(set(changed) - set(named))
    if unknown:
        raise Unsupported(
            f"The step registered for {registration.optimizer.__name__} returned states {unknown} next to those of "
            f"states={registration.states}. Name them when you register it."
        )
    return after, tuple(changed.get(name, named[name]) for name in registration.states)


def _second_moment(registration: Registration, point: StepPoint, move: Move) -> Tensor:
    assert registration.second_moment is not None
    w, states, g = point
    named = dict(zip(registration.states, states, strict=True))
    given = {"age": move.age} if "age" in registration.extra else {}
    result: Tensor = registration.second_moment(w, named, g, dict(move.options.entries), **given)
    return result


def _read(registration: Registration, values: Mapping[str, Any]) -> OwnOptions:
    options = OwnOptions(tuple((name, _plain(values[name])) for name in registration.options))
    try:
        hash(options)
    except TypeError:
        kinds = {name: type(value).__name__ for name, value in options.entries}
        raise Unsupported(
            f"Options of {registration.optimizer.__name__} must be numbers, flags, texts or tuples of them, got "
            f"{kinds}. Leave others out of options= and of the parameter groups."
        ) from None
    return options


def _plain(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return value
    return value[2] if tuple(value[:1]) == (TENSOR,) else tuple(map(_plain, value))


def _construct(kind: type[Optimizer], parameters: list[Any], options: Mapping[str, Any]) -> Optimizer:
    accepted = inspect.signature(kind).parameters
    given = {name: value for name, value in options.items() if name in accepted}
    try:
        optimizer = kind(parameters, **given)
    except Exception as error:
        raise Unsupported(
            f"Replays make an optimizer of class {class_name(kind)} of parameters and the options {sorted(given)}; "
            f"that failed: {error}. Give its constructor's other arguments defaults, or name them in options=."
        ) from error
    optimizer.defaults |= options
    return optimizer


def _names(what: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise Unsupported(f"{what} must be a sequence of names, got {names!r}.")
    return tuple(names)
