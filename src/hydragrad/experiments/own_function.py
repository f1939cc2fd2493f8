"""The experiment of a user's own `module:function`."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from hydragrad.errors import DataError, UnknownName
from hydragrad.experiments.experiment import Experiment
from hydragrad.experiments.recipes import Start
from hydragrad.experiments.settings import Settings
from hydragrad.replay import require_map_style
from hydragrad.steps import known_names


def experiment_of_function(settings: Settings) -> Experiment:
    """Call the user's function for data and loss, and again for every fresh start.

    Raises:
        UnknownName: There is no such module or function.
        DataError: The function returned something else than it must.
    """
    source = settings.source or ""
    function = function_named(source)
    _, loss, train_set, _, held_out = _results(source, function)

    def start(seed: int) -> Start:
        torch.manual_seed(seed)
        model, _, _, optimizer, _ = _results(source, function)
        return Start(model=model.to(settings.device), optimizer=optimizer)

    return Experiment(settings=settings, start=start, loss=loss, train_set=train_set, held_out=held_out)


def returned_by(source: str) -> tuple[Any, Any, Any, Any, Any]:
    """What the user's function returns: model, loss, training set, optimizer, held-out data, of whatever kinds.

    Raises:
        UnknownName: There is no such module or function.
        DataError: It returned another number of things.
    """
    return _sized(source, function_named(source))


def function_named(source: str) -> Callable[[], Any]:
    """The user's function.

    Raises:
        UnknownName: There is no such module or function.
    """
    function: Callable[[], Any] = _named(source, "--from", "module:function, as in my_training:setup")
    return function


def tokenizer_named(source: str) -> Any:
    """The user's tokenizer: what is named, where that has `decode`, else what it returns when it is called.

    Raises:
        UnknownName: There is no such module or name.
        DataError: It is neither a tokenizer nor a function that returns one.
    """
    named = _named(source, "--tokenizer", "module:name, as in my_training:tokenizer")
    if hasattr(named, "decode"):
        return named
    made = named() if callable(named) else None
    if made is None or not (hasattr(made, "decode") or callable(made)):
        raise DataError(
            f"--tokenizer {source} must be an object with decode(tokens), or a function without arguments that returns "
            f"one; got a {type(named if made is None else made).__name__}."
        )
    return made


def _named(source: str, option: str, form: str) -> Any:
    module, colon, name = source.partition(":")
    if not colon:
        raise UnknownName(f"{option} takes {form}; got {source!r}.")
    if "" not in sys.path:
        sys.path.insert(0, "")  # the user's folder, as `python -m` has it
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0] and error.name != module:
            raise
        raise UnknownName(f"There is no module {module!r} to import here ({option} {source}).") from error
    except AttributeError as error:
        raise UnknownName(f"Module {module!r} has no {name!r} ({option} {source}).") from error


def _results(source: str, function: Callable[[], Any]) -> tuple[Any, Any, Any, Any, Mapping[str, Any]]:
    model, loss, train_set, optimizer, held_out = _sized(source, function)
    _require_kinds(source, model, loss, train_set, optimizer, held_out)
    return model, loss, train_set, optimizer, held_out


def _sized(source: str, function: Callable[[], Any]) -> tuple[Any, Any, Any, Any, Any]:
    result = function()
    size = len(result) if isinstance(result, tuple) else 0
    if size not in (4, 5):
        raise DataError(
            f"{source} must return (model, loss, train_set, optimizer), optionally followed by a dict of held-out data "
            f"sets such as {{'validation': ..., 'test': ...}}; it returned "
            f"{f'{size} things' if size else type(result).__name__}."
        )
    return result if size == 5 else (*result, {})


def _require_kinds(source: str, model: Any, loss: Any, train_set: Any, optimizer: Any, held_out: Any) -> None:
    """Refuse a result whose parts are not of the expected kinds.

    Raises:
        DataError: Names the part, and the type that was returned.
    """
    required = (
        (model, isinstance(model, nn.Module), "model must be a torch.nn.Module"),
        (loss, callable(loss), "loss must be a function of (model, batch)"),
        (optimizer, isinstance(optimizer, Optimizer), f"optimizer must be {known_names()} of torch.optim"),
        (held_out, isinstance(held_out, Mapping), "held-out data must be a dict of data sets by name"),
    )
    for returned, holds, requirement in required:
        if not holds:
            raise DataError(f"{source} returned a {type(returned).__name__} in a place where the {requirement}.")
    for name, samples in {"train_set": train_set, **held_out}.items():
        require_map_style(samples, f"data set {name!r} that {source} returned")
