"""The run's own steps, once more: a private copy of the model under the run's own torch optimizer."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hydragrad.derivatives import (
    Batch,
    Evaluator,
    Layout,
    PerSampleLoss,
    check_losses,
    copy_of,
    naming_label_dtype,
)
from hydragrad.randomness import generator_states, reseed_everything, set_generator_states
from hydragrad.replay.buffer_flow import BufferFlow
from hydragrad.replay.fingerprints import state_number, state_of
from hydragrad.runs.buffers import put_buffers
from hydragrad.runs.checkpoints import Checkpoint, put_into, snapshot
from hydragrad.runs.log import Autocast, MicroBatch, StepRecord
from hydragrad.steps import StepPoint, StepRule, Together, torch_group
from hydragrad.torch_release import require_options

StateNames = Mapping[str, str]
"""What torch calls one state of each parameter; optimizers have names of their own."""


class StepHooks:
    """What is called while a step is repeated; nothing happens unless a subclass says so."""

    def before_forward(self, number: int) -> None:
        """Before the forward pass of a micro-batch."""

    def after_forward(self, number: int, losses: Tensor) -> None:
        """Between its forward and its backward pass; random numbers used here leave no trace."""

    def after_backward(self, number: int) -> None:
        """After its backward pass."""

    def before_transform(self) -> None:
        """Before each transform of the gradients."""

    def before_update(self) -> None:
        """Before the optimizer steps."""


class PlaceOfStep(StepHooks):
    """Notes where the optimizer steps.

    Args:
        trajectory: What is replayed.
        weights: Lays out the parameters that are noted.
        states: The optimizer states that are noted; None where the point is not needed.

    Attributes:
        point: Weights, states and gradient before the update, flat; None where it is not needed.
        gradients: The gradients before each transform, flat.
        last_gradient: The gradient before the update, flat.
    """

    last_gradient: Tensor

    def __init__(self, trajectory: "Trajectory", weights: Layout, states: Sequence[StateNames] | None) -> None:
        self._trajectory, self._weights, self._states = trajectory, weights, states
        self.gradients: list[Tensor] = []
        self.point: StepPoint | None = None

    def before_transform(self) -> None:
        """Note the gradient."""
        self.gradients.append(self._trajectory.gradient(self._weights))

    def before_update(self) -> None:
        """Note weights, states and gradient."""
        if self._states is None:
            self.last_gradient = self._trajectory.gradient(self._weights)
            return
        self.point = self._trajectory.point(self._weights, self._states)
        self.last_gradient = self.point.gradient


class Trajectory:
    """Model and optimizer moving along recorded steps.

    It runs the user's own kernels in the user's order, so on the same machine it repeats the run to the bit.
    It draws from torch's global generators; callers preserve them.

    Attributes:
        restored: The step of the checkpoint that it went to last.
    """

    def __init__(self, model: nn.Module, loss: PerSampleLoss, rules: Sequence[StepRule]) -> None:
        self.model = copy_of(model)
        self._loss = Evaluator(loss)
        self._parameters = dict(self.model.named_parameters())
        self._modules = dict(self.model.named_modules())
        self._rules = tuple(rules)
        self._optimizer: Together
        self._arranged: StepRecord | None = None
        self.restored = 0

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The present parameters: live tensors, detached."""
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The present buffers: live tensors, detached."""
        return {name: buffer.detach() for name, buffer in self.model.named_buffers()}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go to a checkpoint; the first thing that is done with a trajectory."""
        if not hasattr(self, "_optimizer"):
            owners = checkpoint.owners or [0] * len(checkpoint.groups)
            first = {owner: group for owner, group in reversed([*zip(owners, checkpoint.groups, strict=True)])}
            bare = [rule.bare(first.get(number, {})) for number, rule in enumerate(self._rules)]
            self._optimizer = Together(bare, self._rules)
        put_into(checkpoint, self.model, self._optimizer)
        self.restored = checkpoint.step

    def checkpoint(self, step: int) -> Checkpoint:
        """Copy the present state."""
        return snapshot(step, self.model, self._optimizer)

    def state_number(self) -> float:
        """One number over the present parameters, floating buffers and optimizer states."""
        return state_number(state_of(self.model, self._optimizer.members))

    def gradient(self, layout: Layout) -> Tensor:
        """The present gradients, flat; 0 where there is none."""
        like = next(iter(self._parameters.values())).detach()
        return layout.flatten({name: self._parameters[name].grad for name in layout.names}, like)

    def point(self, layout: Layout, states: Sequence[StateNames]) -> StepPoint:
        """The present weights, optimizer states and gradients, flat; 0 where there is none."""
        return step_point(self._parameters, self._optimizer, layout, states)

    def arrange(self, record: StepRecord) -> None:
        """Set parameter groups, options, frozen parameters and modes as they were at a step."""
        before = self._arranged
        if before is None or before.structure != record.structure:
            for name, parameter in self._parameters.items():
                parameter.requires_grad_(name not in record.structure.frozen)
            for name, module in self._modules.items():
                module.training = name not in record.structure.evaluating
        if before is None or before.structure != record.structure or before.options != record.options:
            groups = [
                {"params": [self._parameters[name] for name in names], **torch_group(options)}
                for names, options in zip(record.structure.groups, record.options, strict=True)
            ]
            for number, member in enumerate(self._optimizer.members):
                owned = [group for place, group in enumerate(groups) if record.structure.owner(place) == number]
                for group in owned:
                    require_options(member, group)
                member.param_groups = owned
        self._arranged = record

    def plain_losses(self, batch: Batch) -> Tensor:
        """The losses of a batch at the present state, under no autocast, (batch,); moves buffers as training does."""
        reseed_everything(batch.seed)
        with torch.no_grad(), naming_label_dtype():
            return self._loss(self.model, batch.data)

    def losses_at(self, record: StepRecord, batches: Sequence[Batch]) -> list[Tensor]:
        """The losses that a step's micro-batches have at the present state, (batch,) each; nothing moves."""
        self.arrange(record)
        before = {name: buffer.clone() for name, buffer in self.buffers.items()}
        result = []
        for part, batch in zip(record.micro_batches, batches, strict=True):
            reseed_everything(batch.seed)
            with torch.no_grad(), naming_label_dtype(), under(part.autocast):
                result.append(self._loss(self.model, batch.data))
        put_buffers(self.model, before)
        return result

    def advance(
        self,
        record: StepRecord,
        batches: Sequence[Batch],
        weights: Tensor | None = None,
        hooks: StepHooks | None = None,
    ) -> list[Tensor]:
        """Make one step; return the per-sample losses of every micro-batch, shape (batch,) each.

        Args:
            record: What the step did.
            batches: The data of its micro-batches.
            weights: Loss weight of every sample of the step (1 in the real run), shape (samples,).
            hooks: Called on the way.
        """
        watched = hooks or StepHooks()
        self.arrange(record)
        for parameter in self._parameters.values():
            parameter.grad = None
        every = []
        flow, others = self._buffer_flow(record), _SumOfRanks(self._parameters.values())
        for number, (part, batch) in enumerate(zip(record.micro_batches, batches, strict=True)):
            if flow is not None:
                put_buffers(self.model, flow.before(number))
                others.begin(part.rank)
            start = sum(len(before) for before in record.micro_batches[:number])
            mine = None if weights is None else weights[start : start + len(part)]
            watched.before_forward(number)
            reseed_everything(batch.seed)
            with naming_label_dtype(), under(part.autocast):
                losses = self._loss(self.model, batch.data)
            check_losses(losses, batch.size)
            if hooks is not None:
                states = generator_states()
                hooks.after_forward(number, losses)
                set_generator_states(states)
            losses.backward(gradient=_coefficients(part, losses, mine))
            watched.after_backward(number)
            every.append(losses.detach())
            if flow is not None:
                flow.after(number, self._copied_buffers())
        if flow is not None:
            put_buffers(self.model, flow.end)
            others.end()
        clipped = {name for transform in record.transforms for name in transform.names}
        self._settle_gradients(record, kept=clipped)
        for transform in record.transforms:
            watched.before_transform()
            transform.apply([self._parameters[name] for name in transform.names])
        if clipped:
            self._settle_gradients(record)
        watched.before_update()
        self._optimizer.step()
        return every

    def _buffer_flow(self, record: StepRecord) -> BufferFlow[dict[str, Tensor]] | None:
        """Buffers by rank, where several processes made the step; None where each micro-batch keeps them."""
        return None if record.buffers_from is None else BufferFlow(record, self._copied_buffers())

    def _copied_buffers(self) -> dict[str, Tensor]:
        return {name: buffer.clone() for name, buffer in self.buffers.items()}

    def _settle_gradients(self, record: StepRecord, kept: Collection[str] = ()) -> None:
        """Make the same parameters have a gradient as in the run: those without one are skipped.

        Gradients that are `kept` belong to an optimizer that did not step, and still count where gradients are clipped.
        """
        idle = set(record.structure.idle).difference(kept)
        for group in record.structure.groups:
            for name in group:
                parameter = self._parameters[name]
                if name in idle:
                    parameter.grad = None
                elif parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)


class _SumOfRanks:
    """Adds up the gradient of every rank before those of several, as they do: rounding then is theirs, of two ranks."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._rank = 0
        self._sums: list[Tensor | None] = [None] * len(self._parameters)

    def begin(self, rank: int) -> None:
        """A micro-batch of a rank is about to begin; set the gradient of another rank before it aside."""
        if rank != self._rank:
            self.end()
            self._rank, self._sums = rank, [parameter.grad for parameter in self._parameters]
            for parameter in self._parameters:
                parameter.grad = None

    def end(self) -> None:
        """Add what was set aside."""
        for parameter, before in zip(self._parameters, self._sums, strict=True):
            if before is not None:
                parameter.grad = before if parameter.grad is None else before.add_(parameter.grad)


def step_point(
    parameters: Mapping[str, nn.Parameter],
    optimizer: Optimizer | Together,
    layout: Layout,
    states: Sequence[StateNames],
) -> StepPoint:
    """Copy the present weights, optimizer states and gradients, flat; 0 where there is none.

    Args:
        parameters: By name.
        optimizer: Of the parameters.
        layout: Lays out some of them.
        states: What torch calls each state of a parameter.
    """
    like = next(iter(parameters.values())).detach()
    named = {name: parameters[name] for name in layout.names}
    entries = {name: optimizer.state.get(parameter, {}) for name, parameter in named.items()}

    def flat(values: Mapping[str, Tensor | None]) -> Tensor:
        return layout.flatten(values, like)

    return StepPoint(
        flat({name: parameter.detach() for name, parameter in named.items()}),
        tuple(
            flat(
                {
                    name: _as_long(own[called[name]], named[name])
                    for name, own in entries.items()
                    if called.get(name) in own
                }
            )
            for called in states
        ),
        flat({name: parameter.grad for name, parameter in named.items()}),
    )


def under(autocast: Autocast | None) -> AbstractContextManager[Any]:
    """The autocast that a micro-batch ran under."""
    if autocast is None:
        return nullcontext()
    device, dtype = autocast
    return torch.autocast(device, dtype=getattr(torch, dtype))


def _as_long(state: Tensor | None, parameter: Tensor) -> Tensor | None:
    """A state as long as its parameter: a smaller one is followed by zeros."""
    if state is None or state.numel() == parameter.numel():
        return state
    return nn.functional.pad(state.reshape(-1), (0, parameter.numel() - state.numel()))


def _coefficients(part: MicroBatch, losses: Tensor, weights: Tensor | None) -> Tensor:
    """Derivatives of the step's loss by the per-sample losses."""
    if isinstance(part.coefficients, tuple):
        result = losses.new_tensor(part.coefficients)
    elif part.coefficients == 1 / len(part):
        result = torch.ones_like(losses) / len(part)  # a quotient is rounded once, as in the mean
    else:
        result = torch.full_like(losses, part.coefficients)
    return result if weights is None else result * weights
