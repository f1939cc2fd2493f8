"""Between two watched steps nothing may change weights or optimizer state: no derivative would know of it."""

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hydragrad.errors import StepError
from hydragrad.replay.fingerprints import first_trained_norm
from hydragrad.runs.log import Structure


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
        self._last: tuple[Structure, float] | None = None

    def begin(self, structure: Structure | None = None) -> None:
        """Take the present state as right; after a step, `structure` says which parameters it trained."""
        self._versions, self._states = self._version(), self._state_versions()
        self._last = None if structure is None else (structure, first_trained_norm(self._parameters, structure))

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

    def _moved(self) -> bool:
        """Whether the weights moved while their versions stayed: torch counts no change through `parameter.data`."""
        if self._last is None:
            return False
        structure, norm = self._last
        return first_trained_norm(self._parameters, structure) != norm

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
