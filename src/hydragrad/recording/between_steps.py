"""Between two watched steps nothing may change weights or optimizer state: no derivative would know of it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hydragrad.errors import StepError
from hydragrad.recording.strided import StridedViews


class BetweenSteps:
    """Detects weights, buffers and optimizer state that changed since the last step.

    Args:
        model: The model being trained.
        optimizer: Its optimizer.
        method: The call that opens a step block, for messages.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, method: str) -> None:
        self._optimizer, self._method = optimizer, method
        self._parameters = dict(model.named_parameters())
        self._buffer_holders = [module._buffers for module in model.modules() if module._buffers]
        self._versions = 0
        self._states: list[tuple[Tensor, int]] = []
        self._views, self._sampled = StridedViews(), torch.empty(0)

    def begin(self) -> None:
        """Take the present state as right."""
        self._versions, self._states = self._version(), self._state_versions()
        self._sampled = self._sample()

    def require_untouched(self, step: int) -> None:
        """Refuse a change since `begin`.

        Raises:
            StepError: Weights, buffers or, after the first step, the optimizer's state changed before `step`.
        """
        if step > 0 and not _same(self._states, self._state_versions()):
            raise StepError(
                f"Only optimizer.step() may change the optimizer's state, inside {self._method}. It changed outside "
                f"{self._method} before step {step}: cleared, loaded or edited. Load it before the first step, or "
                f"start another run where it changes."
            )
        if self._version() != self._versions or self._moved():
            raise StepError(
                f"Only the optimizer may change the model, inside {self._method}. Its weights or buffers changed "
                f"outside {self._method} before step {step}: set by hand, or by a forward pass in train mode, "
                f"which updates running statistics. Evaluate in model.eval(), and leave the weights to the optimizer."
            )

    def require_untouched_at_the_end(self, steps: int) -> None:
        """Refuse a change after the last step, inside the `with` block.

        Raises:
            StepError: What the block leaves is not what the last step left.
        """
        try:
            self.require_untouched(steps)
        except StepError as error:
            raise StepError(
                f"The model must leave the block as the last step, {steps - 1}, left it: weights, buffers or optimizer "
                f"state changed after that (best weights loaded back, update_bn, a forward pass in train mode). What "
                f"is recorded is the run up to its last step. Do such things after the with block."
            ) from error

    def _moved(self) -> bool:
        """Whether values moved while their versions stayed: torch counts no change through `parameter.data`."""
        return not torch.equal(self._sample(), self._sampled)

    def _sample(self) -> Tensor:
        """Some entries of everything; NaN is a value, too."""
        buffers = [buffer for holder in self._buffer_holders for buffer in holder.values() if buffer is not None]
        floating = [
            tensor
            for tensor in (*self._parameters.values(), *buffers)
            if tensor.is_floating_point() and tensor.layout is torch.strided and tensor.numel()
        ]
        return self._views(floating).nan_to_num()

    def _state_versions(self) -> list[tuple[Tensor, int]]:
        entries: list[dict[str, Any]] = list(self._optimizer.state.values())
        values = [value for entry in entries for value in entry.values() if isinstance(value, Tensor)]
        return [(value, value._version) for value in values]

    def _version(self) -> int:
        versions = sum(parameter._version for parameter in self._parameters.values())
        for holder in self._buffer_holders:
            versions += sum(buffer._version for buffer in holder.values() if buffer is not None)
        return versions


def _same(before: list[tuple[Tensor, int]], now: list[tuple[Tensor, int]]) -> bool:
    """Whether these are the same tensors, and nobody wrote into them."""
    return len(before) == len(now) and all(
        old is new and version == later for (old, version), (new, later) in zip(before, now, strict=True)
    )
