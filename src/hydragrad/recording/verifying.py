"""Verifying while recording: some steps are replayed just after the loop made them.

These are first steps of segments, at ever longer distances. What changes gradients or weights around the optimizer's
step is seen at every step; another loss or batch that begins later is found by the next replay of the run in any case,
since the log has one number over the state after every step.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hydragrad.derivatives import Batch, PerSampleLoss
from hydragrad.errors import ReplayMismatch
from hydragrad.randomness import preserved
from hydragrad.recording.autocast import refusing_autocast
from hydragrad.recording.rank_watch import RankWatch
from hydragrad.replay.causes import OTHER_BATCH, StepSeen, cause_of_other_gradient, cause_of_other_step
from hydragrad.replay.differences import relative_difference
from hydragrad.replay.fingerprints import batch_digest, same_batch
from hydragrad.replay.trajectory import StepHooks, Trajectory
from hydragrad.runs.buffers import put_buffers
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.runs.log import StepRecord
from hydragrad.steps import StepRule


class Verifier:
    """Replays steps just after the loop made them, so that a loop that does more than is recorded is refused at once.

    Args:
        model: The model being trained; a copy is made at the first verification.
        loss: The loss that is recorded.
        rules: The optimizers' step rules.
    """

    def __init__(self, model: nn.Module, loss: PerSampleLoss, rules: Sequence[StepRule]) -> None:
        self._model, self._loss, self._rules = model, loss, tuple(rules)
        self._trajectory: Trajectory | None = None
        self._next = 0

    def due(self, step: int) -> bool:
        """Whether the segment that starts here is verified: the first one, then wherever the step has doubled."""
        if step < self._next:
            return False
        self._next = 2 * step
        return True

    def verify(
        self,
        start: Checkpoint,
        record: StepRecord,
        fetch: Callable[[], Sequence[Any]],
        after: Mapping[str, nn.Parameter],
    ) -> None:
        """Replay a step and compare the parameters after it.

        Args:
            start: The state before it.
            record: What it did.
            fetch: Fetches the data of its micro-batches again.
            after: The parameters after it, by name.

        Raises:
            ReplayMismatch: They differ; says what it looks like.
        """
        with preserved():
            if self._trajectory is None:
                self._trajectory = Trajectory(self._model, self._loss, self._rules)
            parts = zip(record.micro_batches, fetch(), strict=True)
            batches = [Batch(data, len(part), part.seed) for part, data in parts]
            check_one_step(self._trajectory, start, record, batches, after)

    def verify_own_gradient(
        self, start: Checkpoint, record: StepRecord, fetch: Callable[[], Sequence[Any]], rank: RankWatch
    ) -> None:
        """Compute this rank's share of a step's gradient again, where several processes make the step.

        Args:
            start: The state before it.
            record: What this rank did.
            fetch: Fetches the data of its micro-batches again.
            rank: Has noted the step's gradients and buffers.

        Raises:
            ReplayMismatch: It differs; says what it looks like.
        """
        with preserved():
            if self._trajectory is None:
                self._trajectory = Trajectory(self._model, self._loss, self._rules)
            parts = zip(record.micro_batches, fetch(), strict=True)
            batches = [Batch(data, len(part), part.seed) for part, data in parts]
            check_own_gradient(self._trajectory, start, record, batches, rank)


def check_one_step(
    trajectory: Trajectory,
    start: Checkpoint,
    record: StepRecord,
    batches: Sequence[Batch],
    after: Mapping[str, nn.Parameter],
) -> None:
    """Replay one step and compare the parameters after it.

    Raises:
        ReplayMismatch: They differ; says what it looks like.
        Unsupported: The model or the loss enters autocast itself.
    """
    _repeat(trajectory, start, record, batches)
    values = {name: parameter.detach() for name, parameter in after.items()}
    difference = relative_difference(trajectory.parameters, values)
    on_cpu = all(value.device.type == "cpu" for value in values.values())
    if not difference <= (0.0 if on_cpu else 1e-4):
        cause = cause_of_other_step(_seen(trajectory, start, record, batches, after))
        raise ReplayMismatch(
            f"Step {record.step} can't be replayed from what the recorder sees: the weights differ by {difference:.1e} "
            f"(relative L2). It looks like this: {cause}"
        )


def check_own_gradient(
    trajectory: Trajectory, start: Checkpoint, record: StepRecord, batches: Sequence[Batch], rank: RankWatch
) -> None:
    """Repeat a rank's forward and backward passes and compare its gradient, before that is averaged.

    Raises:
        ReplayMismatch: They differ; says what it looks like.
        Unsupported: The model or the loss enters autocast itself.
    """
    hooks = _OwnGradient(trajectory, rank.buffers)
    _repeat(trajectory, start, replace(record, transforms=()), batches, hooks)
    own = rank.own_gradient(record)
    names = [name for name in own if name in record.structure.group_of]
    if not names:  # this rank's batch used no trained parameter
        return
    given, expected = (torch.cat([of[name].reshape(-1) for name in names]) for of in (own, hooks.gradients))
    difference = float((given - expected).norm() / expected.norm().clamp(min=1e-300))
    if not difference <= (0.0 if given.device.type == "cpu" else 1e-4):
        digests = [part.digest for part in record.micro_batches]
        same = [
            same_batch(digest, batch_digest(batch.data))
            for digest, batch in zip(digests, batches, strict=True)
            if digest
        ]
        cause = OTHER_BATCH if same and not all(same) else cause_of_other_gradient(given, expected, len(record.indices))
        raise ReplayMismatch(
            f"Step {record.step} can't be replayed from what the recorder sees: the gradient of this rank's own batch "
            f"differs by {difference:.1e} (relative L2). It looks like this: {cause}"
        )


class _OwnGradient(StepHooks):
    """Sets the buffers that a rank's forward passes began with, and notes the gradient."""

    def __init__(self, trajectory: Trajectory, buffers: Sequence[dict[str, Tensor]]) -> None:
        self._trajectory, self._buffers = trajectory, buffers
        self.gradients: dict[str, Tensor] = {}

    def before_forward(self, number: int) -> None:
        put_buffers(self._trajectory.model, self._buffers[number])

    def before_update(self) -> None:
        for name, parameter in self._trajectory.model.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach().clone()
            self.gradients[name] = gradient


def _repeat(
    trajectory: Trajectory,
    start: Checkpoint,
    record: StepRecord,
    batches: Sequence[Batch],
    hooks: StepHooks | None = None,
) -> None:
    """Make a step again from its start, and see that neither model nor loss enters autocast itself."""
    if record.autocast:  # the loop's own autocast; without it the loss must run without any
        trajectory.restore(start)
        trajectory.arrange(record)
        with refusing_autocast(trajectory.model):
            trajectory.plain_losses(batches[0])
    trajectory.restore(start)
    with nullcontext() if record.autocast else refusing_autocast(trajectory.model):
        trajectory.advance(record, batches, hooks=hooks)


def _seen(
    trajectory: Trajectory,
    start: Checkpoint,
    record: StepRecord,
    batches: Sequence[Batch],
    after: Mapping[str, nn.Parameter],
) -> StepSeen:
    digests = [part.digest for part in record.micro_batches]
    replayed = {name: value.grad for name, value in trajectory.model.named_parameters() if value.grad is not None}
    same = [
        same_batch(digest, batch_digest(batch.data)) for digest, batch in zip(digests, batches, strict=True) if digest
    ]
    return StepSeen(
        start={name: value.to(after[name].device) for name, value in start.parameters.items()},
        after={name: parameter.detach() for name, parameter in after.items()},
        replayed=trajectory.parameters,
        gradients={name: value.grad for name, value in after.items() if value.grad is not None and name in replayed},
        expected=replayed,
        trained=tuple(record.structure.group_of),
        size=len(record.indices),
        same_batch=all(same) if same else None,
    )
