"""Activation checkpointing: evaluations of ours run the checkpointed parts once, and keep their activations.

Checkpointing runs a part of the model again in the backward pass. Ours comes when the parameters that were put in for
the evaluation are gone, and forward mode does not reach into that second run. What is computed is the same without.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

checkpointing = importlib.import_module("torch.utils.checkpoint")


class _Directly:
    """Stands in for the autograd function of reentrant checkpointing."""

    @staticmethod
    def apply(function: Callable[..., Any], _preserve_rng_state: bool, *args: Any) -> Any:
        """Call the function."""
        return function(*args)


def _keep_activations(_frame: Any) -> AbstractContextManager[None]:
    return nullcontext()


@contextmanager
def without_checkpointing() -> Iterator[None]:
    """Run checkpointed parts of a model as if they were not."""
    with ExitStack() as stack:
        for name, stand_in in (("_checkpoint_hook", _keep_activations), ("CheckpointFunction", _Directly)):
            if hasattr(checkpointing, name):
                stack.enter_context(patch.object(checkpointing, name, stand_in))
        yield
