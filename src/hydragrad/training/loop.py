"""The training loop: plain PyTorch, watched by any number of observers."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset

from hydragrad.derivatives import PerSampleLoss, check_losses
from hydragrad.errors import DataError, NonFinite
from hydragrad.progress import Bar, bar
from hydragrad.randomness import BATCH, FORWARD, ORDER, preserved, seeded, stream_seed
from hydragrad.recording import Indices, StepObserver
from hydragrad.replay import fetch
from hydragrad.replay.data import Collate, non_finite_rows
from hydragrad.surroundings import users_default_device

Monitor = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and in which order to train.

    Attributes:
        epochs: Passes over the data.
        batch_size: Samples of a batch; the last one of an epoch may be smaller.
        drop_last: Leave out that smaller batch.
        accumulate: Batches of a step, whose gradient is that of the mean over all their samples; the last step of an
            epoch may have fewer.
        clip_norm: The gradient of a step is clipped to this L2 norm; None leaves it alone.
        autocast: Forward passes run under autocast to this type; None leaves them alone.
        averages: Of the weights, updated after every step.
        seed: Order of the samples, and the randomness of the steps.
        scheduler: A torch scheduler.
        scheduler_every: When the scheduler steps.
        scheduler_metric: Entry of the epoch's log that ReduceLROnPlateau gets, or several entries to be added.
        monitor: Measures the model once per epoch.
        collate: Makes a batch of a list of items.
        progress: Title of the progress bar.

    Raises:
        ValueError: Numbers below 1, or a plateau scheduler without a metric.
    """

    epochs: int
    batch_size: int
    drop_last: bool = False
    accumulate: int = 1
    clip_norm: float | None = None
    autocast: torch.dtype | None = None
    averages: Sequence[AveragedModel] = ()
    seed: int = 0
    scheduler: Any = None
    scheduler_every: Literal["epoch", "step"] = "epoch"
    scheduler_metric: str | Sequence[str] | None = None
    monitor: Monitor | None = None
    collate: Collate | None = None
    progress: str = field(default="training")

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.accumulate < 1:
            raise ValueError(
                f"epochs, batch_size and accumulate must be at least 1, got {self.epochs}, {self.batch_size} and "
                f"{self.accumulate}."
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be above 0, or None for no clipping, got {self.clip_norm}.")
        if self.autocast not in (None, torch.bfloat16):
            raise ValueError(
                f"autocast must be torch.bfloat16 or None, got {self.autocast}. float16 needs a gradient scaler: write "
                f"the loop yourself, with a Recorder in it."
            )
        if self.scheduler_every not in ("epoch", "step"):
            raise ValueError(f"scheduler_every must be 'epoch' or 'step', got {self.scheduler_every!r}.")
        plateau = isinstance(self.scheduler, ReduceLROnPlateau)
        if plateau and (self.scheduler_metric is None or self.scheduler_every != "epoch"):
            raise ValueError(
                "ReduceLROnPlateau needs scheduler_metric, the name of an entry of monitor(model) (or "
                "'train_loss'), and scheduler_every='epoch'."
            )

    def steps(self, length: int) -> int:
        """Number of steps of all epochs."""
        return self.epochs * self.steps_per_epoch(length)

    def steps_per_epoch(self, length: int) -> int:
        """Number of steps of one epoch."""
        return math.ceil(self._batches_per_epoch(length) / self.accumulate)

    def passes(self, length: int) -> int:
        """Number of forward and backward passes of all epochs."""
        return self.epochs * self._batches_per_epoch(length)

    def _batches_per_epoch(self, length: int) -> int:
        return length // self.batch_size if self.drop_last else math.ceil(length / self.batch_size)

    def last_batch(self, length: int) -> int:
        """Number of samples in the last batch of an epoch."""
        return self.batch_size if self.drop_last else (length - 1) % self.batch_size + 1

    def batches(self, length: int, epoch: int) -> Iterator[list[int]]:
        """Yield the sample indices of every batch of an epoch."""
        generator = torch.Generator().manual_seed(stream_seed(self.seed, epoch, ORDER))
        order = torch.randperm(length, generator=generator).tolist()
        for start in range(0, self._batches_per_epoch(length) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size]

    def groups(self, length: int, epoch: int) -> Iterator[list[list[int]]]:
        """Yield the batches of every step of an epoch."""
        batches = list(self.batches(length, epoch))
        for start in range(0, len(batches), self.accumulate):
            yield batches[start : start + self.accumulate]


@dataclass
class EpochLog:
    """Mean of the losses of an epoch, weighted by batch size."""

    losses: float = 0.0
    samples: int = 0

    def add(self, loss: float, size: int) -> None:
        """Add a batch's mean loss."""
        self.losses += loss * size
        self.samples += size

    @property
    def mean(self) -> float:
        """Mean loss per sample."""
        return self.losses / max(1, self.samples)


def fit(
    model: nn.Module,
    loss: PerSampleLoss,
    train_set: Dataset[Any],
    optimizer: Optimizer,
    plan: Plan,
    *,
    observers: Sequence[StepObserver] = (),
    next_step: int = 0,
    first_epoch: int = 0,
    unfinished_epoch: EpochLog | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda _epoch, _log: None,
) -> list[dict[str, float]]:
    """Train from `next_step` to the plan's end.

    Args:
        model: Is trained in place.
        loss: Per-sample losses; a step descends their mean.
        train_set: Map-style data set.
        optimizer: Any torch optimizer.
        plan: How long and in which order.
        observers: Step observers; each of them sees every step.
        next_step: The first step to take.
        first_epoch: The first epoch that is not finished; its steps before `next_step` are done.
        unfinished_epoch: The losses of those steps.
        on_epoch: Called with the number and the log of each finished epoch.

    Returns:
        One log per epoch: `train_loss`, `lr`, and the monitor's entries.

    Raises:
        NonFinite: NaN in a batch, or a loss that became NaN or infinite.
        LossError: A loss that is not one number per sample.
    """
    length = len(train_set)  # type: ignore[arg-type]
    per_epoch = plan.steps_per_epoch(length)
    logs = []
    with bar(plan.progress, plan.steps(length), next_step) as progress:
        for epoch in range(first_epoch, plan.epochs):
            model.train()
            tally, unfinished_epoch = unfinished_epoch or EpochLog(), None
            for position, group in enumerate(plan.groups(length, epoch)):
                step = epoch * per_epoch + position
                if step < next_step:
                    continue
                tally.add(_one_step(model, loss, train_set, optimizer, plan, group, step, observers), _size(group))
                progress.advance()
            log = _end_epoch(model, optimizer, plan, tally)
            logs.append(log)
            on_epoch(epoch, log)
            _show(progress, epoch, log)
    return logs


def _one_step(
    model: nn.Module,
    loss: PerSampleLoss,
    train_set: Dataset[Any],
    optimizer: Optimizer,
    plan: Plan,
    group: Sequence[list[int]],
    step: int,
    observers: Sequence[StepObserver],
) -> float:
    """Make one step on a group of batches; returns the mean loss of its samples."""
    device = next(model.parameters()).device
    total, size = 0.0, _size(group)
    for number, batch_indices in enumerate(group):
        indices = Indices(batch_indices)
        indices.batch_seed = stream_seed(plan.seed, step, BATCH, number)
        data = fetch(train_set, indices, seed=indices.batch_seed, collate=plan.collate, device=device)
        with ExitStack() as stack:
            if not observers:
                stack.enter_context(seeded(stream_seed(plan.seed, step, FORWARD, number)))
            handles = [stack.enter_context(observer.step(indices, data)) for observer in observers]
            if number == 0:
                optimizer.zero_grad()
            evaluate = handles[0].losses if handles and len(group) > 1 else partial(loss, model)
            with under_autocast(plan, device):
                losses = batch_losses(evaluate, data, indices)
                check_losses(losses, len(indices))
            mean = losses.mean() if len(group) == 1 else losses.sum() / size
            total += mean.item()
            _require_finite(total, data, indices, step)
            for handle in handles:
                handle.loss = total
            mean.backward()
            if number + 1 == len(group):
                if plan.clip_norm is not None:
                    clip_grad_norm_(model.parameters(), plan.clip_norm)
                optimizer.step()
    for average in plan.averages:
        average.update_parameters(model)
    if plan.scheduler is not None and plan.scheduler_every == "step":
        plan.scheduler.step()
    return total


def _size(group: Sequence[Sequence[int]]) -> int:
    return sum(map(len, group))


def under_autocast(plan: Plan, device: torch.device) -> AbstractContextManager[Any]:
    """What forward passes of a plan run under."""
    return nullcontext() if plan.autocast is None else torch.autocast(device.type, plan.autocast)


def batch_losses(evaluate: Callable[[Any], Tensor], data: Any, indices: Sequence[int]) -> Tensor:
    """Evaluate the losses of a batch, shape (batch,).

    Raises:
        DataError: The loss refuses a label; the message names the first samples of the batch.
    """
    try:
        with users_default_device():
            return evaluate(data)
    except IndexError as error:
        reason = str(error).rstrip(".")
        raise DataError(
            f"The loss refused the batch of samples {_first(indices)}: {reason}. Labels must be between 0 and the "
            f"number of the model's outputs minus 1. Check the labels of these samples."
        ) from error


def _first(indices: Sequence[int], count: int = 5) -> str:
    return str(list(indices[:count])) + ("..." if len(indices) > count else "")


def _require_finite(value: float, data: Any, indices: Sequence[int], step: int) -> None:
    if math.isfinite(value):
        return
    rows = non_finite_rows(data, len(indices))
    if rows:
        raise NonFinite(
            f"Training samples must be finite; the batch of step {step} has NaN or infinity in samples "
            f"{[indices[row] for row in rows][:5]} of the training set. Remove or repair them."
        )
    if step == 0:
        raise NonFinite(
            f"The loss is {value} at the first step, and the batch of samples {_first(indices)} is finite. Check the "
            f"loss function and the scale of the data."
        )
    raise NonFinite(f"The loss became {value} at step {step}: training diverged. Lower the learning rate.")


def _end_epoch(model: nn.Module, optimizer: Optimizer, plan: Plan, tally: EpochLog) -> dict[str, float]:
    log = {"train_loss": tally.mean, "lr": float(optimizer.param_groups[0]["lr"])}
    if plan.monitor is not None:
        with preserved(), torch.no_grad():
            modes = [module.training for module in model.modules()]
            log |= {name: float(value) for name, value in plan.monitor(model.eval()).items()}
            for module, mode in zip(model.modules(), modes, strict=True):
                module.training = mode
    if plan.scheduler is not None and plan.scheduler_every == "epoch":
        if isinstance(plan.scheduler, ReduceLROnPlateau):
            plan.scheduler.step(_metric(plan, log))
        else:
            plan.scheduler.step()
    return log


def _metric(plan: Plan, log: dict[str, float]) -> float:
    assert plan.scheduler_metric is not None
    names = plan.scheduler_metric
    names = [part.strip() for part in names.split("+")] if isinstance(names, str) else list(names)
    missing = [name for name in names if name not in log]
    if missing:
        raise ValueError(f"scheduler_metric must name entries of the epoch's log, {sorted(log)}, got {missing}.")
    return sum(log[name] for name in names)


def _show(progress: Bar, epoch: int, log: dict[str, float]) -> None:
    shares = {name: f"{100 * value:.1f} %" for name, value in log.items() if name.endswith("accuracy")}
    entries = {name: f"{value:.4g}" for name, value in log.items() if name != "lr"} | shares
    text = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in entries.items())
    progress.note(f"epoch {epoch + 1}: {text}")
