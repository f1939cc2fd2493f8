"""The optimizer's own step, held to its rule: at a sample of the coordinates, or at all where they step together.

The rule predicts weights and states after the step from those before it and from the gradients as the optimizer sees
them. Whatever else moves weights while the optimizer steps (hooks of its own, a patched step, a scaled gradient) is
seen: among the first steps at once, later at one step in EVERY.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hydragrad.errors import ReplayMismatch
from hydragrad.recording.strided import StridedViews, strided
from hydragrad.steps import Move, StepRule, read_group

TOLERANCE = 1e-3
"""Of the update, by which torch's step and the rule's may differ: far more than rounding, far less than clipping."""
ROUNDINGS = 64
"""Of the weights, by which they may differ."""
EVERY = 16
"""Steps between two comparisons, once so many were compared one by one."""
KNOWN_OPTIONS = 16
"""Of a schedule every step has its own; only those in force lately are worth remembering."""


def is_due(step: int) -> bool:
    """Whether a step is looked at closely: each of the first ones, and later one in EVERY."""
    return step < EVERY or step % EVERY == 0


class _Predicted(NamedTuple):
    """Parameters that step alike, and what the rule says of them."""

    parameters: list[nn.Parameter]
    states: tuple[str, ...]
    before: tuple[Tensor, ...]
    after: tuple[Tensor, ...]


class UpdateCheck:
    """Predicts what an optimizer is about to do, and compares.

    Args:
        rule: The optimizer's step rule.
        optimizer: The optimizer.
        method: The call that opens a step block, for messages.
    """

    def __init__(self, rule: StepRule, optimizer: Optimizer, method: str) -> None:
        self._rule, self._optimizer, self._method = rule, optimizer, method
        self._sample = StridedViews()
        self._options: dict[Any, Any] = {}
        self._predicted: list[_Predicted] = []

    def before(self, step: int) -> None:
        """Predict, where it is due; called when the optimizer is about to step."""
        self._predicted = []
        if is_due(step):
            self._predict_all()

    def _predict_all(self) -> None:
        self._predicted = [
            self._predict(parameters, self._read(group))
            for group in self._optimizer.param_groups
            for alike in self._alike(group["params"])
            for parameters in ([alike] if self._rule.elementwise else ([parameter] for parameter in alike))
        ]

    def after(self, step: int) -> None:
        """Compare; called once the optimizer stepped.

        Raises:
            ReplayMismatch: The step was not the rule's.
        """
        for predicted in self._predicted:
            actual = (self._values(predicted.parameters), *self._states(predicted.parameters, predicted.states))
            worst = max(map(_departure, predicted.before, predicted.after, actual))
            if worst > 1:
                registered = ", or correct the step that was registered" if self._rule.check is not None else ""
                raise ReplayMismatch(
                    f"The optimizer must make the plain step of {self._rule.torch_class.__name__} with the options of "
                    f"its parameter groups. At step {step} weights or states moved otherwise, by {worst:.2g} times "
                    f"what is allowed, while it stepped in {self._method}: a hook on the optimizer, a patched step(), "
                    f"a gradient scaler, or a second optimizer called from it. Take that out of the step{registered}."
                )
        self._predicted = []

    def _predict(self, parameters: list[nn.Parameter], options: Any) -> _Predicted:
        rule = self._rule
        at, _ = rule.grow(self._age(parameters[0]), options)
        names = rule.states(options)
        weights, states = self._values(parameters), self._states(parameters, names)
        gradient = self._gathered([parameter.grad for parameter in parameters if parameter.grad is not None])
        after, states_after = rule.step(weights, states, gradient.to(weights), Move(options, at))
        return _Predicted(parameters, names, (weights, *states), (after, *states_after))

    def _states(self, parameters: Sequence[nn.Parameter], names: Sequence[str]) -> tuple[Tensor, ...]:
        return tuple(self._state(parameters, name) for name in names)

    def _state(self, parameters: Sequence[nn.Parameter], name: str) -> Tensor:
        entries = [self._optimizer.state.get(parameter, {}).get(name) for parameter in parameters]
        if all(entry is not None for entry in entries):
            return self._values([entry for entry in entries if entry is not None])
        return self._gathered(
            [
                parameter.new_zeros(self._rule.state_shape(name, tuple(parameter.shape))) if entry is None else entry
                for parameter, entry in zip(parameters, entries, strict=True)
            ]
        )

    def _values(self, tensors: Sequence[Tensor]) -> Tensor:
        """What is compared of tensors that are written in place; a new tensor."""
        return self._sample(tensors) if self._rule.elementwise else tensors[0].detach().clone()

    def _gathered(self, tensors: Sequence[Tensor]) -> Tensor:
        """The same of other tensors."""
        if self._rule.elementwise:
            return torch.cat([strided(tensor) for tensor in tensors]).detach()
        return tensors[0].detach().clone()

    def _alike(self, parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
        """The parameters of a group that will step, apart where age, type or device differ."""
        alike: dict[tuple[Any, ...], list[nn.Parameter]] = {}
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is None or gradient.layout is not torch.strided or parameter.is_complex():
                continue
            alike.setdefault((self._age(parameter), parameter.dtype, parameter.device), []).append(parameter)
        return list(alike.values())

    def _age(self, parameter: nn.Parameter) -> Any:
        return self._rule.age(self._optimizer.state.get(parameter, {}))

    def _read(self, group: dict[str, Any]) -> Any:
        """The group's options in the rule's own terms; equal ones are read once."""
        values = read_group(self._rule, group)
        key = tuple(values.items())
        if key not in self._options:
            if len(self._options) >= KNOWN_OPTIONS:
                self._options.clear()
            self._options[key] = self._rule.read(values)
        return self._options[key]


def _departure(before: Tensor, predicted: Tensor, actual: Tensor) -> float:
    """Distance of the actual from the predicted values, over what rounding allows; 0 where they are not finite."""
    distance, moved, size = torch.stack(
        [(actual - predicted).norm(), (predicted - before).norm(), predicted.norm()]
    ).tolist()
    allowed = TOLERANCE * moved + ROUNDINGS * torch.finfo(before.dtype).eps * size
    departure = distance / allowed if allowed > 0 else distance * float("inf") if distance else 0.0
    return departure if departure == departure and distance < float("inf") else 0.0
