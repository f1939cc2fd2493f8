"""Watching a loop's model and optimizer: which options were in force, and which parameters were skipped."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from hydragrad.errors import StepError, Unsupported
from hydragrad.recording.between_steps import BetweenSteps
from hydragrad.recording.gradient_watch import GradientWatch
from hydragrad.recording.update_check import UpdateCheck
from hydragrad.runs.log import Options, Structure, require_frozen_skipped
from hydragrad.steps import read_group, rule_of


class Watch:
    """Sees what an optimizer does inside the step blocks of an observer.

    Args:
        model: The model being trained.
        optimizer: Its optimizer.
        block: The call that opens a step block, for messages ("recorder.step()").

    Attributes:
        rule: The optimizer's step rule.
        inside: Whether a step block is open.
        parameters: The model's parameters by name.
        options: What was in force when the optimizer stepped, by parameter group.
        rest: Whether something else than the optimizer moved model or optimizer.

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
        self.inside, self._steps, self._nested = False, 0, 0
        self._step, self._checks = 0, True
        self.groups()
        self.rest = BetweenSteps(model, optimizer, block)
        self._gradients = GradientWatch(self.parameters, self.trained, block)
        self._update = UpdateCheck(self.rule, optimizer, block)

    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Parameter names, by parameter group."""
        return tuple(tuple(self._name(p) for p in group["params"]) for group in self._optimizer.param_groups)

    def trained(self) -> list[nn.Parameter]:
        """The parameters that the optimizer has now."""
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def attach(self, before_update: Callable[[], None] | None = None) -> None:
        """Hook model and optimizer; `before_update` is called before the optimizer steps."""
        self._before_update = before_update
        self._handles = _hooks(self._model, self._optimizer, self)

    def detach(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._gradients.detach()

    def begin(self, step: int, *, checks: bool = True) -> None:
        """A step block was entered.

        Args:
            step: Counted from 0, for messages.
            checks: Hold gradients, weights and the optimizer's update to what they must be. False where another
                observer of the same loop does.
        """
        self.inside, self._steps, self._nested = True, 0, 0
        self._step, self._checks = step, checks
        if checks:
            self._gradients.begin()

    def end(self) -> None:
        """The step block was left, whether it ended or failed."""
        self.inside = False
        self._gradients.end()

    def require_one_step(self) -> None:
        """Refuse a block with no or several optimizer steps.

        Raises:
            StepError: Says how many there were.
        """
        if self._steps != 1 or self._nested:
            raise StepError(
                f"A {self._block} block must hold exactly one optimizer.step(); this one held {self._steps}. Put every "
                f"optimizer.step() into a block of its own; gradient accumulation can't be recorded."
            )

    def end_block(self) -> None:
        """Look at what the block left.

        Raises:
            StepError: Something changed after the optimizer's step.
        """
        if self._checks:
            self.rest.end_block(self._step)

    def structure(self) -> Structure:
        """What rarely changes from step to step; the same object as before while nothing does.

        Raises:
            Unsupported: A frozen parameter had a gradient.
        """
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
            require_frozen_skipped(self._structure)
        return self._structure

    def optimizer_steps_now(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        """Read the options in force; called before the optimizer steps, with the arguments of its `step`.

        A closure makes the gradients inside of `step`: what is called before the update then follows the closure, and
        the arguments are returned with such a closure in place of the loop's.
        """
        if not self.inside:
            raise StepError(
                f"Every optimizer.step() belongs inside a {self._block} block; one was called outside {self._block}. "
                f"Put it into a block, or leave the with statement first."
            )
        self._nested += 1
        if self._nested > 1:  # super().step() of an optimizer of the user's own
            return None
        self._steps += 1
        self.options = tuple(read_group(self.rule, group) for group in self._optimizer.param_groups)
        optimizer, closure = args[0], args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._about_to_update()
            return None
        return (optimizer, _followed_by(closure, self._about_to_update)), {}

    def _about_to_update(self) -> None:
        if self._checks and self._steps == 1:
            self._gradients.require_untouched(self._step)
            self.rest.before_update(self._step)
            self._update.before(self._step)
        if self._before_update is not None:
            self._before_update()

    def optimizer_stepped(self) -> None:
        """Note which parameters had no gradient; called after the optimizer stepped."""
        self._nested -= 1
        if self._nested > 0:
            return
        idle = []
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    idle.append(self._name(parameter))
                elif parameter.grad.layout is not torch.strided:
                    raise Unsupported(
                        f"Gradients must be dense; {self._name(parameter)} has a sparse one, for which optimizers have "
                        f"steps of their own. Build the layer without sparse=True."
                    )
        self._idle = tuple(idle)
        if self._checks and self._steps == 1:
            self._update.after(self._step)
            self.rest.after_update(self._step)

    def _name(self, parameter: Tensor) -> str:
        if id(parameter) not in self._names:
            raise Unsupported(
                f"The optimizer must train the model's parameters only; it has a parameter of shape "
                f"{tuple(parameter.shape)} that is not the model's. Make it part of the model, so that it can be "
                f"replayed."
            )
        return self._names[id(parameter)]


def _followed_by(closure: Callable[[], Any], then: Callable[[], None]) -> Callable[[], Any]:
    def both() -> Any:
        loss = closure()
        then()
        return loss

    return both


def _hooks(model: nn.Module, optimizer: Optimizer, watch: Watch) -> list[RemovableHandle]:
    """Plain functions, since a copy of the model copies its hooks."""
    device = next(model.parameters()).device.type

    def refuse_autocast(_module: nn.Module, _inputs: Any) -> None:
        if torch.is_autocast_enabled(device):
            raise Unsupported(
                "The model must run in float32 or float64; it ran under autocast, and derivatives of a half-precision "
                "run are noise. Remove torch.autocast around the step."
            )

    def before(_optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        return watch.optimizer_steps_now(args, kwargs)

    def after(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        watch.optimizer_stepped()

    return [
        model.register_forward_pre_hook(refuse_autocast),
        optimizer.register_step_pre_hook(before),
        optimizer.register_step_post_hook(after),
    ]
