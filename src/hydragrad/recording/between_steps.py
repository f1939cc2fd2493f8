"""Only the optimizer may move weights and its own state: whatever else does is unknown to every derivative.

A model is compared with itself at four moments: when a step block begins, when the optimizer is about to step, when it
has stepped, and when the block ends. Torch counts changes in place, which shows every one of them; a strided sample,
from one step of the optimizer to the next, shows those that go through `.data`, which torch does not count.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hydragrad.errors import StepError
from hydragrad.recording.settings_watch import SettingsWatch
from hydragrad.recording.strided import StridedViews, strided
from hydragrad.steps import Together


class _Versions(NamedTuple):
    """How often everything was changed in place, at a moment."""

    parameters: list[int]
    buffers: list[int]
    states: list[tuple[Tensor, int]]


class BetweenSteps:
    """Detects weights, buffers, optimizer state and settings that something else than the optimizer changed.

    Args:
        model: The model being trained.
        optimizer: Its optimizer.
        method: The call that opens a step block, for messages.
        buffers: Whose buffers are compared: this process's "own", which nobody else writes; those of "rank 0", which
            sends them to all others, so that only their values count; or "nobody's", where they are sent.

    Attributes:
        settings: Settings of modules, and switches of torch.
        micro_batch_moved: Whether micro-batches since the last step moved buffers.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Together,
        method: str,
        buffers: Literal["own", "rank 0", "nobody's"] = "own",
    ) -> None:
        self._optimizer, self._method, self._compared = optimizer, method, buffers
        self._parameters = dict(model.named_parameters())
        self._alike = _by_type(self._parameters.values())
        self._buffer_holders = [module._buffers for module in model.modules() if module._buffers]
        self._views = StridedViews()
        self._last: _Versions | None = None
        self._weights: list[Tensor] = []
        self._statistics: list[Tensor] = []
        self.settings = SettingsWatch(model, method)
        self.micro_batch_moved = False

    def begin(self) -> None:
        """Take the present state as right."""
        self._last, self._weights, self._statistics = self._versions(), self._sample(), self._sample_of_buffers()
        self.settings.begin()

    def require_untouched(self, step: int) -> None:
        """Refuse a change since the last block, as far as torch counts it; `before_update` finds the rest.

        Raises:
            StepError: Weights, buffers, settings or, after the first step, the optimizer's state changed before `step`.
        """
        if self._last is None:
            return
        now = self._versions()
        if step > 0 and not _same(self._last.states, now.states):
            raise StepError(
                f"Only optimizer.step() may change the optimizer's state, inside {self._method}. It changed outside "
                f"{self._method} before step {step}: cleared, loaded or edited. Load it before the first step, or "
                f"start another run where it changes."
            )
        same = now.parameters == self._last.parameters and self._same_buffers(self._last.buffers, now.buffers)
        if not (same and _equal(self._sample_of_buffers(), self._statistics)):
            raise self._moved_outside(step)
        self.settings.require_untouched(step)

    def _same_buffers(self, before: list[int], now: list[int]) -> bool:
        return self._compared != "own" or before == now

    def _moved_outside(self, step: int) -> StepError:
        return StepError(
            f"Only the optimizer may change the model, inside {self._method}. Its weights or buffers changed "
            f"outside {self._method} before step {step}: set by hand, or by a forward pass in train mode, "
            f"which updates running statistics. Evaluate in model.eval(), and leave the weights to the optimizer."
        )

    def require_untouched_at_the_end(self, steps: int) -> None:
        """Refuse a change between the last step and the end of the with statement.

        Raises:
            StepError: The model that is left is not the one that the last step made.
        """
        if self._last is None or steps == 0:
            return
        if self.micro_batch_moved:
            raise StepError(
                f"The model must end as its last step left it. After step {steps - 1} further micro-batches came "
                f"without optimizer.step(), and their forward passes moved running statistics. Let the optimizer step "
                f"on the last, incomplete group, or leave it out; the record ends with step {steps - 1}."
            )
        try:
            self.require_untouched(steps)
            if not _equal(self._sample(), self._weights):
                raise self._moved_outside(steps)
        except StepError as error:
            raise StepError(
                f"The model must end as its last step left it. After step {steps - 1} it changed before the with "
                f"statement ended (running statistics updated, best or averaged weights loaded, weights edited), so it "
                f"is not the model of the record, which ends with that step. Change it after the with statement. "
                f"({error})"
            ) from error

    def before_update(self, step: int) -> None:
        """Refuse weights that moved since the optimizer's last step.

        Raises:
            StepError: Names one.
        """
        if self._last is None:
            return
        before, now = self._last.parameters, self._parameter_versions()
        name = self._first_changed(before, now)
        if name is not None:
            raise StepError(
                f"Only the optimizer may change the model's weights. {name} changed inside {self._method} before the "
                f"optimizer made step {step}: set by hand, or moved by the forward pass itself. Leave the weights to "
                f"the optimizer."
            )
        if not _equal(self._sample(), self._weights):
            raise StepError(
                f"Only the optimizer may change the model's weights. Through .data they changed outside "
                f"{self._method} before step {step}, or in it before the optimizer stepped: set by hand, or moved by "
                f"the forward pass itself. Leave the weights to the optimizer."
            )
        self._last = self._last._replace(parameters=now)

    def after_update(self, step: int) -> None:
        """Note what the optimizer made; refuse parameters that moved and are not its own.

        Raises:
            StepError: Names one.
        """
        if self._last is None:
            return
        before, now = self._last.parameters, self._versions()
        own = {id(parameter) for group in self._optimizer.param_groups for parameter in group["params"]}
        if len(own) < len(self._parameters):
            for (name, parameter), old, new in zip(self._parameters.items(), before, now.parameters, strict=True):
                if old != new and id(parameter) not in own:
                    raise StepError(
                        f"Only the recorded optimizer may change the model. {name}, which it does not have, moved "
                        f"while it made step {step}: another optimizer steps inside of it."
                    )
        self._last, self._weights = now, self._sample()

    def end_block(self, step: int) -> None:
        """Refuse what changed in the block after the optimizer stepped.

        Raises:
            StepError: Names what changed.
        """
        if self._last is not None:
            before, now = self._last, self._versions()
            name = self._first_changed(before.parameters, now.parameters)
            if name is None and not _same(before.states, now.states):
                name = "the optimizer's state"
            if name is None and before.buffers != now.buffers:
                name = "a buffer"
            if name is not None:
                raise StepError(
                    f"Nothing may change the model after the optimizer's step in {self._method}. At step {step} {name} "
                    f"did: weights limited or averaged by hand, a second optimizer, or a further forward pass in train "
                    f"mode. Take that out of the step."
                )
        self.settings.require_untouched(step)

    def keep_micro_batch(self, step: int) -> None:
        """A block ended as a micro-batch of a step that follows: it may have moved buffers, and nothing else.

        Raises:
            StepError: Names what it moved.
        """
        if self._last is None:
            return
        now = self._versions()
        name = self._first_changed(self._last.parameters, now.parameters)
        if name is None and not _same(self._last.states, now.states):
            name = "the optimizer's state"
        if name is not None:
            raise StepError(
                f"A {self._method} block without optimizer.step() is a micro-batch of the step that follows, and moves "
                f"no weights; before step {step} {name} moved in one. Let the optimizer step inside of the block."
            )
        self.settings.require_untouched(step)
        self.micro_batch_moved = self.micro_batch_moved or now.buffers != self._last.buffers
        self._last, self._statistics = self._last._replace(buffers=now.buffers), self._sample_of_buffers()

    def go_on(self) -> None:
        """A block ended as it must: what its optimizer made is right."""
        self.micro_batch_moved = False
        if self._last is None:
            self.begin()
            return
        self._statistics = self._sample_of_buffers()

    def _first_changed(self, before: list[int], now: list[int]) -> str | None:
        """A parameter that was changed in place from one moment to another."""
        if before == now:
            return None
        return next(name for name, old, new in zip(self._parameters, before, now, strict=True) if old != new)

    def _versions(self) -> _Versions:
        buffers = [buffer._version for buffer in self._buffers()]
        return _Versions(self._parameter_versions(), buffers, self._state_versions())

    def _parameter_versions(self) -> list[int]:
        return [parameter._version for parameter in self._parameters.values()]

    def _sample(self) -> list[Tensor]:
        return [self._views(parameters) for parameters in self._alike]

    def _sample_of_buffers(self) -> list[Tensor]:
        """Floating buffers, which are few and small where there are any."""
        if self._compared == "nobody's":
            return []
        floating = [b for b in self._buffers() if b.is_floating_point() and b.layout is torch.strided and b.numel()]
        return [torch.cat([strided(buffer) for buffer in alike]) for alike in _by_type(floating)]

    def _state_versions(self) -> list[tuple[Tensor, int]]:
        entries: list[dict[str, Any]] = list(self._optimizer.state.values())
        values = [value for entry in entries for value in entry.values() if isinstance(value, Tensor)]
        return [(value, value._version) for value in values]

    def _buffers(self) -> list[Tensor]:
        return [buffer for holder in self._buffer_holders for buffer in holder.values() if buffer is not None]


def _by_type(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    alike: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        alike.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(alike.values())


def _equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors hold the same numbers; NaN equals itself."""
    return len(first) == len(second) and all(map(_equal_tensors, first, second))


def _equal_tensors(x: Tensor, y: Tensor) -> bool:
    return torch.equal(x, y) or (x.shape == y.shape and torch.equal(x.nan_to_num(), y.nan_to_num()))


def _same(before: list[tuple[Tensor, int]], now: list[tuple[Tensor, int]]) -> bool:
    """Whether these are the same tensors, and nobody wrote into them."""
    return len(before) == len(now) and all(
        old is new and version == later for (old, version), (new, later) in zip(before, now, strict=True)
    )
