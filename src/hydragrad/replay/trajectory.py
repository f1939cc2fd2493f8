"""The run's own steps, once more: a private copy of the model under a real torch.optim.SGD."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import SGD

from hydragrad.derivatives import Batch, PerSampleLoss, check_losses
from hydragrad.randomness import generator_states, reseed, set_generator_states
from hydragrad.runs.checkpoints import Checkpoint, put_into, snapshot
from hydragrad.runs.log import StepRecord
from hydragrad.runs.manifest import Reduction


class Trajectory:
    """Model and optimizer moving along recorded steps.

    It runs the user's own kernels in the user's order, so on the same machine it repeats the run to the bit.
    It draws from torch's global generators; callers preserve them.
    """

    def __init__(self, model: nn.Module, loss: PerSampleLoss, reduction: Reduction) -> None:
        self.model = copy.deepcopy(model)
        self._loss = loss
        self._reduction = reduction
        self._parameters = dict(self.model.named_parameters())
        self._modules = dict(self.model.named_modules())
        self._optimizer = SGD(list(self._parameters.values()), lr=0.0)
        self._arranged: StepRecord | None = None

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The present parameters: live tensors, detached."""
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The present buffers: live tensors, detached."""
        return {name: buffer.detach() for name, buffer in self.model.named_buffers()}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go to a checkpoint."""
        put_into(checkpoint, self.model, self._optimizer)

    def checkpoint(self, step: int) -> Checkpoint:
        """Copy the present state."""
        return snapshot(step, self.model, self._optimizer)

    def arrange(self, record: StepRecord) -> None:
        """Set parameter groups, options, frozen parameters and modes as they were at a step."""
        before = self._arranged
        if before is None or before.structure != record.structure:
            for name, parameter in self._parameters.items():
                parameter.requires_grad_(name not in record.structure.frozen)
            for name, module in self._modules.items():
                module.training = name not in record.structure.evaluating
        if before is None or before.structure != record.structure or before.options != record.options:
            self._optimizer.param_groups = [
                {"params": [self._parameters[name] for name in names], **options}
                for names, options in zip(record.structure.groups, record.options, strict=True)
            ]
        self._arranged = record

    def advance(
        self,
        record: StepRecord,
        batch: Batch,
        weights: Tensor | None = None,
        *,
        beside: Callable[[], None] | None = None,
    ) -> Tensor:
        """Make one step; return the per-sample losses, shape (batch,).

        Args:
            record: What the step did.
            batch: Its data.
            weights: Loss weight of every sample of the batch (1 in the real run), shape (batch,).
            beside: Called between the forward and the backward pass; what it draws leaves no trace.
        """
        self.arrange(record)
        for parameter in self._parameters.values():
            parameter.grad = None
        reseed(batch.seed)
        losses = self._loss(self.model, batch.data)
        check_losses(losses, batch.size)
        if beside is not None:
            states = generator_states()
            beside()
            set_generator_states(states)
        self._objective(losses, weights).backward()
        self._settle_gradients(record)
        self._optimizer.step()
        return losses.detach()

    def _objective(self, losses: Tensor, weights: Tensor | None) -> Tensor:
        if weights is not None:
            losses = losses * weights
        return losses.mean() if self._reduction == "mean" else losses.sum()

    def _settle_gradients(self, record: StepRecord) -> None:
        """Make the same parameters have a gradient as in the run: those without one are skipped."""
        idle = set(record.structure.idle)
        for group in record.structure.groups:
            for name in group:
                parameter = self._parameters[name]
                if name in idle:
                    parameter.grad = None
                elif parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
