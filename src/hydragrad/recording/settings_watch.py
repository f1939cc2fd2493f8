"""Settings of torch's modules and switches of torch, watched from step to step: a replay has those of the recording."""

from torch import nn

from hydragrad.errors import StepError
from hydragrad.replay.backend import step_flags
from hydragrad.runs.module_settings import changed_settings, module_settings


class SettingsWatch:
    """Detects settings and switches that change while a loop is watched.

    Args:
        model: The model being trained.
        method: The call that opens a step block, for messages.
    """

    def __init__(self, model: nn.Module, method: str) -> None:
        self._model, self._method, self._device = model, method, next(model.parameters()).device
        modules = dict(model.named_modules())
        self._watched = [(modules[path], name) for path, own in module_settings(model).items() for name in own]
        self.begin()

    def begin(self) -> None:
        """Take the present settings as right."""
        self._settings, self._values = module_settings(self._model), self._read()
        self._flags = step_flags(self._device)

    def require_untouched(self, step: int) -> None:
        """Refuse what changed since `begin`.

        Raises:
            StepError: Names one, with its values.
        """
        if self._read() != self._values:
            change = next(changed_settings(self._settings, module_settings(self._model)), None)
            if change is not None:
                raise StepError(
                    f"Settings of modules must stay as they are inside a recording, since a replay has one model; at "
                    f"step {step} {change}. Set it before the first step, or record another run where it changes."
                )
        flags = step_flags(self._device)
        if flags != self._flags:
            name = next(name for name in flags if flags[name] != self._flags[name])
            raise StepError(
                f"Switches of torch must stay as they are inside a recording; at step {step} {name!r} was "
                f"{self._flags[name]!r} and is {flags[name]!r}. Set it before the with statement."
            )

    def _read(self) -> list[object]:
        return [vars(module).get(name) for module, name in self._watched]
