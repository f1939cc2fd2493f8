"""Settings of torch's modules that change what they compute: BatchNorm's momentum and eps, a dropout's p, strides.

They are neither parameters nor buffers, so no checkpoint has them, and a replay takes them from the model that it gets.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from hydragrad.errors import RecordingMismatch

Settings = dict[str, dict[str, Any]]
"""By module and name."""

TORCH = "torch.nn."


def module_settings(model: nn.Module) -> Settings:
    """Read the settings of all modules that are torch's, or made from torch's; tuples as lists."""
    settings = {name: dict(_own(module)) for name, module in model.named_modules()}
    return {name: own for name, own in settings.items() if own}


def changed_settings(before: Settings, now: Settings) -> Iterator[str]:
    """Say of settings that both have what differs."""
    for module, own in before.items():
        for name, value in own.items():
            present = now.get(module, {}).get(name, value)
            if not (present == value or (present != present and value != value)):
                yield f"{name} of {module or 'the model'} was {value!r} and is {present!r}"


def require_same_settings(recorded: Mapping[str, Any], model: nn.Module, path: object) -> None:
    """Refuse a model with other settings than the recorded one; earlier versions recorded none.

    Raises:
        RecordingMismatch: Names the first setting that differs.
    """
    for change in changed_settings(recorded.get("settings", {}), module_settings(model)):
        raise RecordingMismatch(
            f"{path} was recorded with a model of other settings: {change} now. Build the model with those that it "
            f"was recorded with."
        )


def _own(module: nn.Module) -> Iterator[tuple[str, Any]]:
    names = {
        name
        for base in type(module).__mro__
        if base is not nn.Module and base.__module__.startswith(TORCH)
        for name in getattr(base, "__constants__", ())
    }
    for name in sorted(names & vars(module).keys()):
        value = vars(module)[name]
        if _is_plain(value):
            yield name, list(value) if isinstance(value, tuple) else value


def _is_plain(value: Any) -> bool:
    """Whether a value is a number, a flag, text, None, or a tuple of them."""
    return type(value) in (bool, int, float, str, type(None)) or (type(value) is tuple and all(map(_is_plain, value)))
