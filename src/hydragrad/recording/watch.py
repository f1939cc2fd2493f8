"""Watching a loop's model and optimizer: which options were in force, and which parameters were skipped."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from hydragrad.errors import StepError, Unsupported
from hydragrad.recording.autocast import autocast_in_force, described
from hydragrad.recording.between_steps import BetweenSteps
from hydragrad.recording.gradient_watch import Earlier, GradientWatch
from hydragrad.recording.prepared import refuse_autocast_inside
from hydragrad.recording.reduction import Reduction
from hydragrad.recording.torch_calls import listen
from hydragrad.recording.update_check import UpdateCheck
from hydragrad.runs.log import Autocast, Options, Structure, require_frozen_skipped
from hydragrad.steps import Together, Transform


class Watch:
    """Sees what an optimizer does inside the step blocks of an observer.

    Args:
        model: The model being trained.
        optimizer: Its optimizer.
        block: The call that opens a step block, for messages ("recorder.step()").
        buffers: As BetweenSteps takes it.

    Attributes:
        model: The model being trained.
        rules: The step rules of the optimizers.
        inside: Whether a step block is open.
        parameters: The model's parameters by name.
        options: What was in force when the optimizer stepped, by parameter group.
        rest: Whether something else than the optimizer moved model or optimizer.
        reduction: How the loop makes one number of the losses of a micro-batch.
        autocast: What the model ran under in this block; None where it ran as it is.

    Raises:
        Unsupported: The optimizer's step has no rule, or it has parameters that are not the model's.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Together,
        block: str,
        buffers: Literal["own", "rank 0", "nobody's"] = "own",
    ) -> None:
        self.model, self._optimizer, self._block = model, optimizer, block
        self.parameters = dict(model.named_parameters())
        self._names = {id(parameter): name for name, parameter in self.parameters.items()}
        self._modules = dict(model.named_modules())
        self.options: tuple[Options, ...] = ()
        self._seen: tuple[Any, ...] = ()
        self._structure: Structure | None = None
        self._idle: tuple[str, ...] = ()
        self._handles: list[RemovableHandle] = []
        self._before_update: Callable[[], None] | None = None
        self._before_transform: Callable[[], None] | None = None
        self._stop_listening: Callable[[], None] | None = None
        self.inside = False
        self._steps, self._nested = self._none_yet(), 0
        self._step, self._checks, self._calls = 0, True, 0
        self.autocast: Autocast | None = None
        self.groups()
        self.rest = BetweenSteps(model, optimizer, block, buffers)
        self._gradients = GradientWatch(self.parameters, self.trained, block)
        self.reduction = Reduction(block)
        members = zip(optimizer.rules, optimizer.members, strict=True)
        self._updates = [UpdateCheck(rule, member, block) for rule, member in members]

    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Parameter names, by parameter group."""
        return tuple(tuple(self._name(p) for p in group["params"]) for group in self._optimizer.param_groups)

    def trained(self) -> list[nn.Parameter]:
        """The parameters that the optimizer has now."""
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def attach(
        self,
        before_update: Callable[[], None] | None = None,
        before_transform: Callable[[], None] | None = None,
    ) -> None:
        """Hook model and optimizer, and listen to torch.

        Args:
            before_update: Called before the optimizer steps.
            before_transform: Called before gradients are clipped.
        """
        self._before_update, self._before_transform = before_update, before_transform
        self._handles = _hooks(self.model, self._optimizer, self)
        self._stop_listening = listen(self)

    def detach(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None

    def begin(self, step: int, *, checks: bool = True) -> None:
        """A step block was entered.

        Args:
            step: Counted from 0, for messages.
            checks: Hold weights and the optimizer's update to what they must be. False where another observer of the
                same loop does; gradients are watched all the same, since what happens to them is part of the record.
        """
        self.inside = True
        self._steps, self._nested = self._none_yet(), 0
        self._step, self._checks = step, checks
        self._gradients.begin(step)
        self.reduction.begin(step)
        self.autocast, self._calls = None, 0

    def end(self) -> None:
        """The step block was left, whether it ended or failed."""
        self.inside = False
        self.reduction.end()

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """How gradients were clipped in this block, in order."""
        return tuple(self._gradients.transforms)

    @property
    def clipped(self) -> bool:
        """Whether that changed any."""
        return self._gradients.clipped

    @property
    def earlier(self) -> Earlier:
        """What the block's backward pass found of the gradients of earlier micro-batches."""
        return self._gradients.earlier

    @property
    def stepped(self) -> bool:
        """Whether the optimizer made its step in this block.

        Raises:
            StepError: It made several, or there was neither a step nor a backward pass.
        """
        most = max(self._steps)
        if most > 1 or self._nested:
            raise StepError(
                f"A {self._block} block must hold at most one optimizer.step(); this one held {most}. Put every "
                f"optimizer.step() into a block of its own."
            )
        if most == 0 and self._gradients.backward_passes == 0:
            raise StepError(
                f"A {self._block} block must hold a backward pass: exactly one optimizer.step(), or a micro-batch of "
                f"the step that follows. This one held neither backward() nor optimizer.step(). Take it out of "
                f"{self._block}."
            )
        if most == 0 and self._gradients.transforms:
            raise StepError(
                f"Gradients are clipped once all micro-batches of a step have added to them; at step {self._step} they "
                f"were clipped in a block without optimizer.step(). Clip in the block that holds optimizer.step()."
            )
        return most == 1

    def before_backward(self, roots: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        """A backward pass is about to start inside the block."""
        self._gradients.before_backward()
        self.reduction.before_backward(roots, gradients)

    def after_backward(self) -> None:
        """It ended."""
        self._gradients.after_backward()

    def before_clipping(self) -> None:
        """Gradients are about to be clipped inside the block."""
        self._require_untouched_gradients()
        if self._before_transform is not None:
            self._before_transform()

    def _require_untouched_gradients(self) -> None:
        before = len(self._gradients.transforms)
        self._gradients.require_untouched()
        if len(self._gradients.transforms) > before and self._before_transform is not None:
            self._before_transform()  # a scale, for which where it is taken makes no difference

    def after_clipping(self, parameters: Sequence[Tensor], made: Callable[..., Transform], *, acted: bool) -> None:
        """They were."""
        self._gradients.after_clipping(parameters, made, acted=acted)

    def note_autocast(self, device: str) -> None:
        """Note what the model runs under; called before each of its forward passes.

        Raises:
            Unsupported: It ran otherwise before, in the same block.
        """
        if not self.inside:
            return
        now = autocast_in_force(device)
        if self._calls and now != self.autocast:
            raise Unsupported(
                f"A block's forward passes must all run under the same autocast; at step {self._step} one ran under "
                f"{described(self.autocast)} and the next under {described(now)}. Give each a {self._block} block of "
                f"its own."
            )
        self.autocast, self._calls = now, self._calls + 1

    def note_autocast_of_part(self, device: str) -> None:
        """The same before a forward pass of a part of the model, which a loop may call in place of the model."""
        if not self._calls:
            self.note_autocast(device)
            self._calls = 0

    def keep_micro_batch(self) -> None:
        """The block was a micro-batch of a step that follows."""
        self._gradients.carry()
        if self._checks:
            self.rest.keep_micro_batch(self._step)

    def end_block(self) -> None:
        """Look at what the block of a step left.

        Raises:
            StepError: Something changed after the optimizer's step.
        """
        self._gradients.stepped()
        if self._checks:
            self.rest.end_block(self._step)

    def _none_yet(self) -> list[int]:
        return [0] * len(self._optimizer.members)

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
                owners=self._optimizer.owners,
            )
            require_frozen_skipped(self._structure)
        return self._structure

    def optimizer_steps_now(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        """Read the options in force; called before an optimizer steps, with the arguments of its `step`.

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
        self._steps[number] += 1
        self.options = self._optimizer.options()
        optimizer, closure = args[0], args[1] if len(args) > 1 else kwargs.get("closure")
        about_to_update = partial(self._about_to_update, number)
        if closure is None:
            about_to_update()
            return None
        return (optimizer, _followed_by(closure, about_to_update)), {}

    def _about_to_update(self, number: int) -> None:
        if self._steps[number] == 1:
            self._require_untouched_gradients()
        if self._checks and self._steps[number] == 1:
            self.rest.before_update(self._step)
            self._updates[number].before(self._step)
        if self._before_update is not None:
            self._before_update()

    def optimizer_stepped(self, number: int) -> None:
        """Note which parameters had no gradient; called after an optimizer stepped."""
        self._nested -= 1
        if self._nested > 0:
            return
        idle = []
        every = zip(self._steps, self._optimizer.members, strict=True)
        for steps, group in ((steps, group) for steps, member in every for group in member.param_groups):
            for parameter in group["params"]:
                if parameter.grad is None or not steps:
                    idle.append(self._name(parameter))
                elif parameter.grad.layout is not torch.strided:
                    raise Unsupported(
                        f"Gradients must be dense; {self._name(parameter)} has a sparse one, for which optimizers have "
                        f"steps of their own. Build the layer without sparse=True."
                    )
        self._idle = tuple(idle)
        if self._checks and self._steps[number] == 1:
            self._updates[number].after(self._step)
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


def _parts(model: nn.Module) -> list[nn.Module]:
    """The modules that a model calls itself: its children, and those in its lists and dictionaries of modules."""
    parts: list[nn.Module] = []
    for child in model.children():
        parts.extend(_parts(child) if isinstance(child, nn.ModuleList | nn.ModuleDict) else [child])
    return parts


def _hooks(model: nn.Module, optimizer: Together, watch: Watch) -> list[RemovableHandle]:
    """Plain functions, since a copy of the model copies its hooks."""
    device = next(model.parameters()).device.type

    def before_forward(_module: nn.Module, _inputs: Any) -> None:
        if watch.inside and _module is watch.model:
            refuse_autocast_inside(_module)
        watch.note_autocast(device)

    def before_part(_module: nn.Module, _inputs: Any) -> None:
        watch.note_autocast_of_part(device)

    def before(number: int, _optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        return watch.optimizer_steps_now(number, args, kwargs)

    def after(number: int, _optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        watch.optimizer_stepped(number)

    handles = [
        model.register_forward_pre_hook(before_forward),
        *(part.register_forward_pre_hook(before_part) for part in _parts(model)),
    ]
    for number, member in enumerate(optimizer.members):
        handles.append(member.register_step_pre_hook(partial(before, number)))
        handles.append(member.register_step_post_hook(partial(after, number)))
    return handles
