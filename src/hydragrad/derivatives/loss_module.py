"""A model and its per-sample loss as one module, so that both can be called with any parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hydragrad.derivatives.copying import copy_of
from hydragrad.derivatives.evaluation import Evaluator
from hydragrad.derivatives.label_dtype import naming_label_dtype
from hydragrad.derivatives.torch_gaps.byte_labels import long_labels
from hydragrad.derivatives.torch_gaps.checkpointing import without_checkpointing
from hydragrad.derivatives.torch_gaps.compiled import plain
from hydragrad.derivatives.torch_gaps.padding import use_constant_padding
from hydragrad.derivatives.torch_gaps.recurrent import use_unfused_recurrence
from hydragrad.errors import LossError
from hydragrad.randomness import reseed_everything

PerSampleLoss = Callable[[Any, Any], Tensor]
"""`loss(model, batch)` returns one number a sample, shape (batch size,); it calls the model once."""


class Batch(NamedTuple):
    """One step's data as the loss takes it.

    Attributes:
        data: Whatever the data set's items collate to.
        size: Number of samples.
        seed: Seed of all randomness of the forward pass.
    """

    data: Any
    size: int
    seed: int


class LossModule(nn.Module):
    """Per-sample losses as a function of parameters and buffers.

    Args:
        model: Is copied, and never changed.
        loss: Per-sample loss.
        prepare: Replaces layers of the copy by differentiable twins, in place.
    """

    PREFIX = "model."

    def __init__(
        self, model: nn.Module, loss: PerSampleLoss, prepare: Callable[[nn.Module], None] | None = None
    ) -> None:
        super().__init__()
        self.model = plain(copy_of(model))
        use_constant_padding(self.model)
        use_unfused_recurrence(self.model)
        if prepare is not None:
            prepare(self.model)
        self.loss = Evaluator(loss)

    def take_modes(self, model: nn.Module) -> None:
        """Put the copy's modules into the modes of a model like it."""
        for copy, original in zip(self.model.modules(), model.modules(), strict=True):
            copy.training = original.training

    def forward(self, batch: Batch, model: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses (batch size,), and the buffers after the forward pass."""
        reseed_everything(batch.seed)
        with naming_label_dtype(), long_labels(batch.data), without_checkpointing():
            losses = self.loss(self.model if model is None else model, batch.data)
        check_losses(losses, batch.size)
        return losses, dict(self.model.named_buffers())

    def at(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Evaluate at given parameters and buffers.

        Returns:
            Losses (batch size,), and the buffers after the forward pass; those passed in are left as they were.
        """
        # Kernels that update running statistics write into the tensors that they get.
        state = {self.PREFIX + name: tensor for name, tensor in parameters.items()}
        state |= {self.PREFIX + name: tensor.clone() for name, tensor in buffers.items()}
        result: tuple[Tensor, dict[str, Tensor]] = functional_call(self, state, (batch,))
        return result


def check_losses(losses: Any, size: int) -> None:
    """Refuse a loss that is not one floating-point number a sample.

    Raises:
        LossError: Says what it returned.
    """
    if not isinstance(losses, Tensor) or losses.shape != (size,) or not losses.is_floating_point():
        actual = (
            f"a {losses.dtype} tensor of shape {tuple(losses.shape)}"
            if isinstance(losses, Tensor)
            else type(losses).__name__
        )
        raise LossError(
            f"The loss must return one number a sample, a floating-point tensor of shape ({size},); it returned "
            f"{actual}. Use reduction='none' and average over everything but the batch dimension."
        )


def parameter_names(model: nn.Module) -> dict[str, torch.Size]:
    """Names and shapes of all parameters; shared ones appear once."""
    return {name: parameter.shape for name, parameter in model.named_parameters()}
