"""Settings of modules that change the function and are no tensors: momentum, eps, a dropout's p."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hydragrad.errors import RecordingMismatch

PLAIN = (bool, int, float, str, type(None))
MODE = "training"
"""Train or eval mode may change at every step, and is in the step's record."""

Settings = dict[str, dict[str, Any]]
"""Public attributes that are plain values, by module and name."""


def module_settings(model: nn.Module) -> Settings:
    """Read the settings of all modules; those without any are left out."""
    settings = {name: dict(_own_settings(module)) for name, module in model.named_modules()}
    return {name: own for name, own in settings.items() if own}


def changed_settings(before: Settings, now: Settings) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield (module, attribute, value before, value now) of settings that both have and that differ."""
    for module, own in before.items():
        for name, value in own.items():
            present = now.get(module, {}).get(name, value)
            if not same_value(value, present):
                yield module, name, value, present


def require_same_settings(recorded: Settings, model: nn.Module, path: Path) -> None:
    """Refuse a model with other settings than the recorded one.

    Raises:
        RecordingMismatch: Names the first setting that differs.
    """
    for module, name, then, now in itertools.islice(changed_settings(recorded, module_settings(model)), 1):
        raise RecordingMismatch(
            f"{path} was recorded with {name}={then!r} in {called(module)}; this model has {name}={now!r}. Build the "
            f"model with the settings it was recorded with."
        )


def called(module: str) -> str:
    """A module as messages call it."""
    return f"the module {module}" if module else "the model"


def without(settings: Settings, moved: Mapping[str, set[str]]) -> Settings:
    """The settings but those that the model itself moves."""
    kept = {
        module: {name: value for name, value in own.items() if name not in moved.get(module, ())}
        for module, own in settings.items()
    }
    return {module: own for module, own in kept.items() if own}


def same_value(first: Any, second: Any) -> bool:
    """Whether two values are equal, whether they were read from JSON or not; a NaN equals itself."""
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same_value, first, second))
    return bool(first == second or (first != first and second != second))


def is_plain(value: Any) -> bool:
    """Whether a value is a number, a flag, text, None, or a tuple of them."""
    return type(value) in PLAIN or (type(value) is tuple and all(map(is_plain, value)))


def _own_settings(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        if name != MODE and not name.startswith("_") and is_plain(value):
            yield name, list(value) if type(value) is tuple else value
