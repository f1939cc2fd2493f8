"""Between two recorded steps nothing may change the weights: the recording would not have it, nor a replay."""

from torch import nn

from hydragrad.errors import StepError
from hydragrad.replay.replay import first_trained_norm
from hydragrad.runs.log import Structure


class BetweenSteps:
    """Detects weights and buffers that changed since the last step.

    Args:
        model: The model being trained.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = dict(model.named_parameters())
        self._buffer_holders = [module._buffers for module in model.modules() if module._buffers]
        self._versions = 0
        self._last: tuple[Structure, float] | None = None

    def begin(self, structure: Structure | None = None, norm: float = 0.0) -> None:
        """Take the present state as right.

        Args:
            structure: After a step: which parameters it trained.
            norm: Then: norm of the first of them.
        """
        self._versions = self._version()
        self._last = None if structure is None else (structure, norm)

    def require_untouched(self, step: int) -> None:
        """Refuse a change since `begin`.

        Raises:
            StepError: Weights or buffers changed before `step`.
        """
        if self._version() != self._versions or self._moved():
            raise StepError(
                f"Only the optimizer may change the model, inside recorder.step(). Its weights or buffers changed "
                f"outside recorder.step() before step {step}: set by hand, or by a forward pass in train mode, "
                f"which updates running statistics. Evaluate in model.eval(), and leave the weights to the optimizer."
            )

    def _moved(self) -> bool:
        """Whether the weights moved while their versions stayed: torch counts no change through `parameter.data`."""
        if self._last is None:
            return False
        structure, norm = self._last
        return first_trained_norm(self._parameters, structure) != norm

    def _version(self) -> int:
        versions = sum(parameter._version for parameter in self._parameters.values())
        for holder in self._buffer_holders:
            versions += sum(buffer._version for buffer in holder.values() if buffer is not None)
        return versions
