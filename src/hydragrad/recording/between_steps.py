"""Only the optimizer may move weights and its own state: whatever else does is unknown to every derivative.

A model is compared with itself at four moments: when a step block begins, when the optimizer is about to step, when it
has stepped, and when the block ends. Torch counts changes in place, which shows every one of them; a strided sample and
norms show those that go through `.data`, which torch does not count.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hydragrad.errors import StepError
from hydragrad.recording.settings_watch import SettingsWatch
from hydragrad.recording.strided import StridedViews


class _Present(NamedTuple):
    """What model and optimizer look like at a moment."""

    parameters: list[int]
    buffers: int
    states: list[tuple[Tensor, int]]
    sample: list[Tensor]


class BetweenSteps:
    """Detects weights, buffers, optimizer state and settings that something else than the optimizer changed.

    Args:
        model: The model being trained.
        optimizer: Its optimizer.
        method: The call that opens a step block, for messages.

    Attributes:
        settings: Settings of modules, and switches of torch.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, method: str) -> None:
        self._optimizer, self._method = optimizer, method
        self._parameters = dict(model.named_parameters())
        self._alike = _by_type(self._parameters.values())
        self._buffer_holders = [module._buffers for module in model.modules() if module._buffers]
        self._views = StridedViews()
        self._last: _Present | None = None
        self._norms: list[Tensor] = []
        self.settings = SettingsWatch(model, method)

    def begin(self) -> None:
        """Take the present state as right."""
        self._last, self._norms = self._present(), self._all_norms()
        self.settings.begin()

    def require_untouched(self, step: int) -> None:
        """Refuse a change since `begin`.

        Raises:
            StepError: Weights, buffers, settings or, after the first step, the optimizer's state changed before `step`.
        """
        if self._last is None:
            return
        if step > 0 and not _same(self._last.states, self._state_versions()):
            raise StepError(
                f"Only optimizer.step() may change the optimizer's state, inside {self._method}. It changed outside "
                f"{self._method} before step {step}: cleared, loaded or edited. Load it before the first step, or "
                f"start another run where it changes."
            )
        now = self._present()
        same = now.parameters == self._last.parameters and now.buffers == self._last.buffers
        if not (same and _equal(now.sample, self._last.sample) and _equal(self._all_norms(), self._norms)):
            raise StepError(
                f"Only the optimizer may change the model, inside {self._method}. Its weights or buffers changed "
                f"outside {self._method} before step {step}: set by hand, or by a forward pass in train mode, "
                f"which updates running statistics. Evaluate in model.eval(), and leave the weights to the optimizer."
            )
        self.settings.require_untouched(step)

    def require_untouched_at_the_end(self, steps: int) -> None:
        """Refuse a change between the last step and the end of the with statement.

        Raises:
            StepError: The model that is left is not the one that the last step made.
        """
        if self._last is None or steps == 0:
            return
        try:
            self.require_untouched(steps)
        except StepError as error:
            raise StepError(
                f"The model must end as its last step left it. After step {steps - 1} it changed before the with "
                f"statement ended (running statistics updated, best or averaged weights loaded, weights edited), so it "
                f"is not the model of the record, which ends with that step. Change it after the with statement. "
                f"({error})"
            ) from error

    def before_update(self, step: int) -> None:
        """Refuse weights that moved in the block before the optimizer stepped.

        Raises:
            StepError: Names one.
        """
        if self._last is None:
            return
        before, now = self._last, self._present()
        name = self._moved(before, now)
        if name is not None:
            raise StepError(
                f"Only the optimizer may change the model's weights. {name} changed inside {self._method} before the "
                f"optimizer made step {step}: set by hand, or moved by the forward pass itself. Leave the weights to "
                f"the optimizer."
            )
        self._last = now

    def after_update(self, step: int) -> None:
        """Note what the optimizer made; refuse parameters that moved and are not its own.

        Raises:
            StepError: Names one.
        """
        if self._last is None:
            return
        before, now = self._last, self._present()
        own = {id(parameter) for group in self._optimizer.param_groups for parameter in group["params"]}
        for (name, parameter), old, new in zip(
            self._parameters.items(), before.parameters, now.parameters, strict=True
        ):
            if old != new and id(parameter) not in own:
                raise StepError(
                    f"Only the recorded optimizer may change the model. {name}, which it does not have, moved while "
                    f"it made step {step}: another optimizer steps inside of it."
                )
        self._last = now

    def end_block(self, step: int) -> None:
        """Refuse what changed in the block after the optimizer stepped.

        Raises:
            StepError: Names what changed.
        """
        if self._last is not None:
            before, now = self._last, self._present()
            name = self._moved(before, now)
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

    def _moved(self, before: _Present, now: _Present) -> str | None:
        """A parameter that changed from one moment to another."""
        for name, old, new in zip(self._parameters, before.parameters, now.parameters, strict=True):
            if old != new:
                return name
        return None if _equal(before.sample, now.sample) else "a parameter (through .data)"

    def _present(self) -> _Present:
        versions = [parameter._version for parameter in self._parameters.values()]
        sample = [self._views(parameters) for parameters in self._alike]
        return _Present(versions, self._buffer_versions(), self._state_versions(), sample)

    def _state_versions(self) -> list[tuple[Tensor, int]]:
        entries: list[dict[str, Any]] = list(self._optimizer.state.values())
        values = [value for entry in entries for value in entry.values() if isinstance(value, Tensor)]
        return [(value, value._version) for value in values]

    def _buffer_versions(self) -> int:
        return sum(buffer._version for buffer in self._buffers())

    def _all_norms(self) -> list[Tensor]:
        """Norms of parameters and floating buffers."""
        buffers = [b for b in self._buffers() if b.is_floating_point() and b.layout is torch.strided]
        return list(torch._foreach_norm([value.detach() for value in (*self._parameters.values(), *buffers)], 2))

    def _buffers(self) -> list[Tensor]:
        return [buffer for holder in self._buffer_holders for buffer in holder.values() if buffer is not None]


def _by_type(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    alike: dict[Any, list[nn.Parameter]] = {}
    for parameter in parameters:
        alike.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    return list(alike.values())


def _equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors hold the same numbers; NaN equals itself."""
    if len(first) != len(second):
        return False
    x, y = (
        torch.cat([value.reshape(-1) for value in values]) if values else torch.empty(0) for values in (first, second)
    )
    return torch.equal(x, y) or (x.shape == y.shape and torch.equal(x.nan_to_num(), y.nan_to_num()))


def _same(before: list[tuple[Tensor, int]], now: list[tuple[Tensor, int]]) -> bool:
    """Whether these are the same tensors, and nobody wrote into them."""
    return len(before) == len(now) and all(
        old is new and version == later for (old, version), (new, later) in zip(before, now, strict=True)
    )
