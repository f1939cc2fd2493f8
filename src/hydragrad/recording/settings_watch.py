"""Settings of modules and switches of torch, watched from step to step: a replay has those of the recording."""

from typing import Any

import torch
from torch import nn

from hydragrad.errors import StepError
from hydragrad.replay.backend import step_flags
from hydragrad.runs.module_settings import called, is_plain

OWN_MODULES = "torch.nn"


class SettingsWatch:
    """Detects settings of modules and switches of torch that change while a loop is watched.

    Attributes that modules of the user's own set in their forward pass are left alone from then on: what they do is
    seen where steps are replayed.

    Args:
        model: The model being trained.
        method: The call that opens a step block, for messages.

    Attributes:
        moved: Attributes that the model itself sets, by module.
    """

    def __init__(self, model: nn.Module, method: str) -> None:
        self._method = method
        self._modules = dict(model.named_modules())
        self._device = next(model.parameters()).device
        self._names = {
            module: tuple(name for name, value in vars(own).items() if not _private(name) and is_plain(value))
            for module, own in self._modules.items()
        }
        self.moved: dict[str, set[str]] = {}
        self._flags = step_flags(self._device)
        self._values = self._read()

    def begin(self) -> None:
        """Take the present settings as right."""
        self._values = self._read()

    def require_untouched(self, step: int) -> None:
        """Refuse settings that the loop changed since `begin`.

        Raises:
            StepError: Names one, with its values.
        """
        for module, name, before, now in self._changed():
            raise StepError(
                f"Settings of modules must stay as they are, since a replay has those of the recording; {name} of "
                f"{called(module)} changed from {before!r} to {now!r} before step {step}. Set it before the first "
                f"step, or start another run where it changes."
            )
        self._require_same_switches(step)

    def end_block(self, step: int) -> bool:
        """Look at what the block changed; True where the model itself moved a setting for the first time.

        Raises:
            StepError: A module of torch's own was changed, or a switch of torch.
        """
        news = False
        for module, name, before, now in list(self._changed()):
            if type(self._modules[module]).__module__.startswith(OWN_MODULES):
                raise StepError(
                    f"Settings of modules must stay as they are, since a replay has those of the recording; {name} of "
                    f"{called(module)} changed from {before!r} to {now!r} in {self._method} at step {step}. Set it "
                    f"before the first step, or start another run where it changes."
                )
            self.moved.setdefault(module, set()).add(name)
            self._names[module] = tuple(known for known in self._names[module] if known != name)
            news = True
        self._require_same_switches(step)
        return news

    def _require_same_switches(self, step: int) -> None:
        now = step_flags(self._device)
        if now != self._flags:
            name = next(name for name in now if now[name] != self._flags[name])
            raise StepError(
                f"Switches of torch must stay as they are while a run is recorded; {name!r} changed from "
                f"{self._flags[name]!r} to {now[name]!r} before or in step {step}. Set it before the with statement."
            )

    def _read(self) -> list[tuple[Any, ...]]:
        return [tuple(map(vars(self._modules[module]).get, names)) for module, names in self._names.items()]

    def _changed(self) -> list[tuple[str, str, Any, Any]]:
        now = self._read()
        if _equal(now, self._values):
            return []
        return [
            (module, name, before, after)
            for (module, names), old, new in zip(self._names.items(), self._values, now, strict=True)
            for name, before, after in zip(names, old, new, strict=True)
            if before is not after and not _equal(before, after)
        ]


def _private(name: str) -> bool:
    return name.startswith("_") or name == "training"


def _equal(first: Any, second: Any) -> bool:
    """Whether values are equal; a tensor that took the place of a number is not."""
    if isinstance(first, torch.Tensor) or isinstance(second, torch.Tensor):
        return first is second
    try:
        return bool(first == second)
    except RuntimeError:  # a tensor inside of a tuple
        return False
