"""The model's one call inside the loss: capture what it returns, or put something else in its place.

What it returns is a tensor, or something that holds one: a mapping, a named tuple, an output of transformers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hydragrad.derivatives.chunked_head import Call, head_calls
from hydragrad.derivatives.leaves import map_tensors, tensor_leaves
from hydragrad.derivatives.loss_module import Batch, LossModule
from hydragrad.derivatives.point import Point
from hydragrad.errors import LossError

HELD = "held_output"
"""Entry of a problem's `__dict__`: what held the tensor that its model returned last, with an empty one in it."""


class Captured:
    """The outputs of the model's calls while the loss ran.

    Args:
        problem: Notes what holds the output.
    """

    def __init__(self, problem: LossModule) -> None:
        self.outputs: list[Any] = []
        self._problem = problem

    @property
    def tensor(self) -> Tensor:
        """The output of the one call.

        Raises:
            LossError: The model was called more or less than once, or what it returned does not hold one tensor.
        """
        held = tensor_leaves(self.outputs[0]) if len(self.outputs) == 1 else []
        if len(held) != 1:
            actual = (
                f"was called {len(self.outputs)} times"
                if len(self.outputs) != 1
                else f"returned a {type(self.outputs[0]).__name__} with {len(held)} tensors"
            )
            raise LossError(
                f"curvature='ggn' and labels=True need a loss that calls the model once and gets one tensor; "
                f"here the model {actual}. Use curvature='none' or 'hessian', or write the loss with one call."
            )
        bare = isinstance(self.outputs[0], Tensor)
        self._problem.__dict__[HELD] = None if bare else map_tensors(self.outputs[0], lambda _: torch.empty(0))
        return held[0]


@contextmanager
def capture_output(problem: LossModule, *, required: bool) -> Iterator[Captured]:
    """Catch what the model returns while the loss runs (nothing is caught unless `required`)."""
    captured = Captured(problem)
    if not required:
        yield captured
        return
    handle = problem.model.register_forward_hook(lambda _m, _a, output: captured.outputs.append(output))
    try:
        yield captured
    finally:
        handle.remove()


class StandIn:
    """Answers the model's one call with an output that is known; everything else is the model's own."""

    def __init__(self, model: Any, output: Any) -> None:
        self._model = model
        self._output = output

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        """Answer the call."""
        return self._output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def losses_of_output(problem: LossModule, batch: Batch, output: Tensor) -> Tensor:
    """Evaluate the loss on an output of the model, shape (batch,); one that was captured says what holds it."""
    losses: Tensor
    holder = problem.__dict__.get(HELD)
    answer = output if holder is None else map_tensors(holder, lambda _: output)
    losses, _ = problem(batch, model=StandIn(problem.model, answer))
    return losses


def require_one_call(problem: LossModule, parameters: dict[str, Tensor], point: Point) -> None:
    """Refuse losses that reach the parameters otherwise than through the model's one call.

    Raises:
        LossError: Gauss-Newton products would silently miss that part.
    """
    with torch.no_grad(), capture_output(problem, required=True) as captured, head_calls() as calls:
        problem.at(parameters, point.buffers, point.batch)
    if calls:
        _require_head_alone(problem, point, calls)
    elif losses_of_output(problem, point.batch, captured.tensor.detach()).requires_grad:
        raise LossError(
            "curvature='ggn' needs a loss that depends on the parameters through the model's output alone; this "
            "one uses them directly, too (a penalty?). Use the optimizer's weight_decay, or curvature='hessian'."
        )


def _require_head_alone(problem: LossModule, point: Point, calls: list[Call]) -> None:
    """Refuse losses that reach the parameters otherwise than through `chunked_cross_entropy`.

    Raises:
        LossError: They do.
    """
    with head_calls([call.losses.detach() for call in calls]):
        losses, _ = problem(point.batch)
    if losses.requires_grad:
        raise LossError(
            "curvature='ggn' needs a loss that depends on the parameters through chunked_cross_entropy alone, where it "
            "calls that; this one uses them directly, too (a penalty?). Use curvature='hessian'."
        )
