"""A step rule: what one class of torch optimizer does to one parameter, as a value of pure functions.

Legend: w weights, s state tensors, g the gradient as the optimizer gets it; x_dot tangent, x_bar cotangent of x.

A rule is all that the library knows of an optimizer. Sweeps, replays, trackers and checkpoints ask it for names and
derivatives and know nothing else, so that a new optimizer is one file here and one line in `steps.rules`.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

Value = TypeVar("Value", float, Tensor)

TENSOR = "tensor"
"""Marks an option that was a tensor: ("tensor", dtype, value)."""

Shape = tuple[int, ...]

Age = Any
"""How far a parameter's own history has come; each rule has its own kind (hashable)."""


class Move(NamedTuple):
    """What a step did to a parameter.

    Attributes:
        options: The options in force, a frozen dataclass of the rule's own.
        age: What of the step depends on the parameter's earlier steps: for SGD whether this step creates the momentum
            buffer, for Adam the number of the step.
    """

    options: Any
    age: Age


class StepPoint(NamedTuple):
    """Where a step was taken: the values before it.

    Attributes:
        weights: Before the step.
        states: Before the step, in the order of the rule's `states`; zero where they did not exist yet. Laid out flat,
            a state that is smaller than its parameter is followed by zeros.
        gradient: As the optimizer got it.
    """

    weights: Tensor
    states: tuple[Tensor, ...]
    gradient: Tensor


class Tangent(NamedTuple, Generic[Value]):
    """Tangents of weights and state tensors."""

    w_dot: Value
    states: tuple[Value, ...]


class Cotangent(NamedTuple, Generic[Value]):
    """Cotangents of weights and state tensors."""

    w_bar: Value
    states: tuple[Value, ...]


class Step(Protocol):
    """One step of the optimizer, equal to torch's to rounding.

    `rho` is added under the root of a second moment: it is 0 in the step itself and may be positive where only the
    derivative is taken of it.
    """

    def __call__(
        self, w: Tensor, states: tuple[Tensor, ...], g: Tensor, move: Move, *, rho: float = 0.0
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return weights and states after the step."""
        ...


class TangentStep(Protocol):
    """Advances d(weights, states)/d(sample weight) by one step.

    `g_dot` is the tangent of the gradient that the optimizer gets (curvature times `w_dot` plus the sample's own
    gradient), before weight decay and before `maximize` turns its sign. Tangents may have leading dimensions that
    the point lacks.
    """

    def __call__(
        self, before: Tangent[Any], g_dot: Any, move: Move, point: StepPoint | None = None, *, rho: float = 0.0
    ) -> Tangent[Any]:
        """Return the tangents after the step."""
        ...


class TransposeStep(Protocol):
    """Pulls cotangents back through one step.

    Returns the cotangent `g_bar` of the gradient (sign of `maximize` included), and the cotangents before the step
    without the curvature term; the caller adds curvature times `g_bar` to `w_bar`.
    """

    def __call__(
        self, after: Cotangent[Any], move: Move, point: StepPoint | None = None, *, rho: float = 0.0
    ) -> tuple[Any, Cotangent[Any]]:
        """Return `g_bar` and the cotangents before the step."""
        ...


class ClosedForm(NamedTuple):
    """One step without curvature, where that is the same for every coordinate.

    Attributes:
        states: How many state tensors a parameter has at most.
        step_map: A move as (w_dot, states) -> matrix @ (w_dot, states) + injection * gradient: matrix
            (1 + states, 1 + states) and injection (1 + states,), float64.
    """

    states: int
    step_map: Callable[[Move], tuple[NDArray[np.float64], NDArray[np.float64]]]


def _itself(move: Move) -> Hashable:
    return move


def _on_cpu(group: Mapping[str, Any]) -> bool:
    return False


def _the_parameters(name: str, shape: Shape) -> Shape:
    return shape


@dataclass(frozen=True, kw_only=True)
class StepRule:
    """What the library knows of one torch optimizer.

    Attributes:
        torch_class: The optimizer, exactly.
        options: Entries of a parameter group that enter the derivative.
        kernels: Entries that choose the kernel: they change the rounding, so replay needs them, and nothing else.
        read: Makes the rule's options of a group's entries.
        states: Names of the state tensors that a step under some options takes and gives, as torch calls them.
        age: A parameter's age of its entries in the optimizer's state, empty before its first step.
        grow: The age of the next step, and the parameter's age after it, from its age before and the options.
        step: One step.
        tangent: Its tangent.
        transpose: Its transpose.
        closed_form: One step without curvature where that is the same for every coordinate and does not depend on
            weights and gradient; else None.
        same_step: What of a move its closed form depends on; moves that are equal here may share a history.
        second_moment: The bias-corrected second moment under whose root the step divides, at a point; None where the
            step has no such root, and so nothing to smooth.
        numbers_on_device: Whether numbers in the state, such as a step, lie with the parameter under a group's kernels,
            rather than on the CPU.
        elementwise: Whether every coordinate steps for itself. If so, step and derivatives take any coordinates, of one
            parameter or of several; else they take one whole parameter in its own shape.
        construct: Makes an optimizer of parameters and the options of a group, of which it takes what its class needs
            to exist; groups and state are put into it afterwards. None calls the class with a rate.
        check: Holds the rule to an optimizer that is about to be used, for rules that are not hydragrad's own.
        state_shape: Shape of a state, by its name and the parameter's shape; of no more coordinates than the parameter.
    """

    torch_class: type[Optimizer]
    options: tuple[str, ...]
    kernels: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], Any]
    states: Callable[[Any], tuple[str, ...]]
    age: Callable[[Mapping[str, Any]], Age]
    grow: Callable[[Age, Any], tuple[Age, Age]]
    step: Step
    tangent: TangentStep
    transpose: TransposeStep
    closed_form: ClosedForm | None = None
    same_step: Callable[[Move], Hashable] = _itself
    second_moment: Callable[[StepPoint, Move], Tensor] | None = None
    numbers_on_device: Callable[[Mapping[str, Any]], bool] = _on_cpu
    elementwise: bool = True
    construct: Callable[[list[Any], Mapping[str, Any]], Optimizer] | None = None
    check: "Callable[[StepRule, Optimizer], None] | None" = None
    state_shape: Callable[[str, Shape], Shape] = _the_parameters

    @property
    def name(self) -> str:
        """The torch class with its module."""
        return class_name(self.torch_class)

    def bare(self, options: Mapping[str, Any], parameter: Parameter | None = None) -> Optimizer:
        """An optimizer into which groups and state are to be put.

        Args:
            options: Of a parameter group that it is to have; they become its defaults, for parameters that join later.
            parameter: What it is made of; an empty one if None.
        """
        parameters = [Parameter(torch.zeros(0, 0)) if parameter is None else parameter]
        if self.construct is not None:
            return self.construct(parameters, options)
        optimizer = self.torch_class(parameters, lr=0.0)  # type: ignore[call-arg]
        optimizer.defaults |= options
        return optimizer


def number(value: Any) -> float:
    """An option as a number, whether it was one or a tensor."""
    return float(value[2] if isinstance(value, list | tuple) else value)


def class_name(kind: type) -> str:
    """A class with its module."""
    return f"{kind.__module__}.{kind.__qualname__}"


def steps_so_far(state: Mapping[str, Any]) -> int:
    """The age of a parameter whose steps the optimizer counts as `step`."""
    return round(float(state.get("step", 0)))


def one_step_more(steps: int, options: Any) -> tuple[int, int]:
    """Grow such an age: the number of the step, from 1, is the age after it, too."""
    return steps + 1, steps + 1


def capturable(group: Mapping[str, Any]) -> bool:
    """Whether numbers in the state lie with the parameter, where only that option decides it."""
    return bool(group.get("capturable"))
