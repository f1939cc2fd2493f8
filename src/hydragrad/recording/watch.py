"""Watching a loop's model and optimizer: which options were in force, and which parameters were skipped."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from hydragrad.errors import QueryError, StepError, Unsupported
from hydragrad.runs.log import Options, Structure
from hydragrad.steps import read_group, rule_of


class Watch:
    """Sees what an optimizer does inside the step blocks of an observer.

    Args:
        model: The model being trained.
        optimizer: Its optimizer.
        block: How the observer's step block is called, for messages.

    Attributes:
        rule: Of the optimizer.
        parameters: The model's parameters by name.
        options: What was in force when the optimizer stepped, by parameter group.

    Raises:
        Unsupported: The optimizer's step has no rule, or it has parameters that are not the model's.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, block: str) -> None:
        self._model, self._optimizer, self._block = model, optimizer, block
        self.rule = rule_of(optimizer)
        self.parameters = dict(model.named_parameters())
        self._names = {id(parameter): name for name, parameter in self.parameters.items()}
        self._modules = dict(model.named_modules())
        self.options: tuple[Options, ...] = ()
        self._seen: tuple[Any, ...] = ()
        self._structure: Structure | None = None
        self._idle: tuple[str, ...] = ()
        self._handles: list[RemovableHandle] = []
        self._before_update: Callable[[], None] | None = None
        self._in_step, self._steps = False, 0
        self.groups()

    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Parameter names, by parameter group."""
        return tuple(tuple(self._name(p) for p in group["params"]) for group in self._optimizer.param_groups)

    def attach(self, before_update: Callable[[], None] | None = None) -> None:
        """Hook model and optimizer; `before_update` is called before the optimizer steps."""
        self._before_update = before_update
        self._handles = _hooks(self._model, self._optimizer, self)

    def detach(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def begin(self) -> None:
        """A step block was entered."""
        self._in_step, self._steps = True, 0

    def end(self) -> None:
        """It was left, in whichever way."""
        self._in_step = False

    def require_one_step(self) -> None:
        """Refuse a block with no or several optimizer steps.

        Raises:
            StepError: Says how many there were.
        """
        if self._steps != 1:
            raise StepError(
                f"A {self._block} block must hold exactly one optimizer.step(); this one held {self._steps}. Gradient "
                f"accumulation and several steps in one block can't be recorded."
            )

    def structure(self, before: Structure | None) -> Structure:
        """What rarely changes; the same object as before while nothing does."""
        seen = (
            [[*map(id, group["params"])] for group in self._optimizer.param_groups],
            [parameter.requires_grad for parameter in self.parameters.values()],
            [module.training for module in self._modules.values()],
            self._idle,
        )
        if self._structure is None or seen != self._seen:
            self._seen = seen
            self._structure = Structure(
                groups=self.groups(),
                frozen=tuple(name for name, parameter in self.parameters.items() if not parameter.requires_grad),
                idle=self._idle,
                evaluating=tuple(name for name, module in self._modules.items() if not module.training),
            )
        return before if before == self._structure else self._structure

    def optimizer_steps_now(self) -> None:
        """Read the options in force; called by the optimizer before it steps."""
        if not self._in_step:
            raise StepError(f"optimizer.step() was called outside {self._block}; every step must be recorded.")
        self._steps += 1
        if self._before_update is not None:
            self._before_update()
        self.options = tuple(read_group(self.rule, group) for group in self._optimizer.param_groups)

    def optimizer_stepped(self) -> None:
        """See which parameters had a gradient; called by the optimizer after it stepped."""
        idle = []
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    idle.append(self._name(parameter))
                elif parameter.grad.layout is not torch.strided:
                    raise Unsupported(
                        f"{self._name(parameter)} has a sparse gradient, which optimizers treat in ways that are not "
                        f"differentiated here. Build the layer without sparse=True."
                    )
        self._idle = tuple(idle)

    def _name(self, parameter: Tensor) -> str:
        if id(parameter) not in self._names:
            raise Unsupported(
                f"The optimizer has a parameter of shape {tuple(parameter.shape)} that is not the model's. "
                f"Make it part of the model, so that it can be replayed."
            )
        return self._names[id(parameter)]


def _hooks(model: nn.Module, optimizer: Optimizer, watch: Watch) -> list[RemovableHandle]:
    """Plain functions, since a copy of the model copies its hooks."""
    device = next(model.parameters()).device.type

    def refuse_autocast(_module: nn.Module, _inputs: Any) -> None:
        if torch.is_autocast_enabled(device):
            raise Unsupported(
                "The model ran under autocast: derivatives of a half-precision run are noise. Train in float32."
            )

    def before(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        watch.optimizer_steps_now()

    def after(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        watch.optimizer_stepped()

    return [
        model.register_forward_pre_hook(refuse_autocast),
        optimizer.register_step_pre_hook(before),
        optimizer.register_step_post_hook(after),
    ]


def checked_batch(indices: Sequence[int] | Tensor, length: int) -> list[int]:
    """The samples of a step.

    Raises:
        QueryError: None at all, or some that the training set does not have.
    """
    chosen = [int(i) for i in (indices.tolist() if isinstance(indices, Tensor) else indices)]
    if not chosen or min(chosen) < 0 or max(chosen) >= length:
        wrong = [i for i in chosen if not 0 <= i < length]
        came = f"{wrong[:5]} among them" if wrong else "an empty batch came"
        raise QueryError(f"A step trains on samples 0 to {length - 1} of the training set; {came}.")
    return chosen
