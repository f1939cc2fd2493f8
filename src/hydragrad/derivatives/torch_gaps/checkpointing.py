"""Activation checkpointing: evaluations of ours run the checkpointed parts once, and keep their activations.

Checkpointing runs a part of the model again in the backward pass. Ours comes when the parameters that were put in for
the evaluation are gone, and forward mode does not reach into that second run. What is computed is the same without.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch

checkpointing = importlib.import_module("torch.utils.checkpoint")


class _Directly:
    """Stands in for the autograd function of reentrant checkpointing."""

    @staticmethod
    def apply(function: Callable[..., Any], _preserve_rng_state: bool, *args: Any) -> Any:
        """Call the function."""
        return function(*args)


class _NothingToSave:
    """Stands in for the autograd function by which older releases of torch save the inputs of a checkpointed part."""

    @staticmethod
    def apply(_dummy: Any, *_inputs: Any) -> torch.Tensor:
        """Give a tensor without a graph: the part is then run as it is."""
        return torch.empty(0)


def _keep_activations(_frame: Any) -> AbstractContextManager[None]:
    return nullcontext()


STAND_INS = {
    "_checkpoint_hook": _keep_activations,
    "_NoopSaveInputs": _NothingToSave,
    "CheckpointFunction": _Directly,
}
"""For what torch.utils.checkpoint has of these names."""


@contextmanager
def without_checkpointing() -> Iterator[None]:
    """Run checkpointed parts of a model as if they were not."""
    with ExitStack() as stack:
        for name, stand_in in STAND_INS.items():
            if hasattr(checkpointing, name):
                stack.enter_context(patch.object(checkpointing, name, stand_in))
        yield
