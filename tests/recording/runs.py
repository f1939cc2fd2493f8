"""Tiny runs in every style, in float32: 20 samples, 4 batches an epoch, the last one smaller; and what to hold of them."""

import hashlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim import lr_scheduler as schedules
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

import hydragrad as hg
from hydragrad.recording import Checkpoint, StepHandle
from hydragrad.recording.checkpoints import snapshot

SAMPLES, FEATURES, CLASSES, BATCH_SIZE, EPOCHS = 20, 4, 3, 6, 4
PER_EPOCH = 4
STEPS = EPOCHS * PER_EPOCH


# --- data


def points(*, samples: int = SAMPLES, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, FEATURES, generator=generator)
    return TensorDataset(inputs, torch.randint(CLASSES, (samples,), generator=generator))


class Augmented(Dataset[Any]):
    """Every item is disturbed by torch's, NumPy's and Python's global generators."""

    def __init__(self, stop: "Callable[[str, int], None] | None" = None) -> None:
        self._points, self._stop, self._drawn = points(), stop, 0

    def __len__(self) -> int:
        return len(self._points)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self._stop is not None:
            self._stop("item", self._drawn)
            self._drawn += 1
        x, y = self._points[index]
        noise = torch.rand(()) + np.random.random() + random.random()
        return x + 0.1 * noise, y


# --- models, losses, optimizers


def net(*, seed: int = 0, dropout: float = 0.3, classes: int = CLASSES) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, classes)
        )


def linear(*, seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(FEATURES, CLASSES)


def loss(model: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


def sgd(model: nn.Module, **options: Any) -> SGD:
    return SGD(model.parameters(), **({"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3} | options))


# --- stopping a run at one moment


@dataclass(frozen=True)
class Stop:
    """Ends the process, or raises what Ctrl-C raises, when the run comes by `place` for the `count`-th time."""

    place: str
    count: int
    how: Literal["kill", "interrupt"] = "kill"

    def __call__(self, place: str, count: int) -> None:
        if (place, count) == (self.place, self.count):
            if self.how == "interrupt":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGKILL)


def never(place: str, count: int) -> None:
    """Stop nowhere."""


class StoppingObserver:
    """A step observer that stops inside a step."""

    def __init__(self, stop: Callable[[str, int], None]) -> None:
        self._stop, self._steps = stop, 0

    @contextmanager
    def step(self, indices: Any, batch: Any = None) -> Iterator[StepHandle]:
        self._stop("before the step", self._steps)
        yield StepHandle()
        self._stop("in the step", self._steps)
        self._steps += 1


# --- whole runs


@dataclass(frozen=True)
class Schedule:
    """A scheduler, and how hg.train and an own loop are to step it."""

    make: Callable[[Optimizer], Any]
    every: Literal["epoch", "step"] = "epoch"
    metric: str | None = None


def two_after_another(optimizer: Optimizer) -> Any:
    warm_up = schedules.LinearLR(optimizer, 0.3, total_iters=2)
    return schedules.SequentialLR(optimizer, [warm_up, schedules.ExponentialLR(optimizer, 0.6)], [2])


SCHEDULES = {
    "none": Schedule(lambda optimizer: None),
    "step": Schedule(lambda optimizer: schedules.StepLR(optimizer, 1, 0.7)),
    "one cycle": Schedule(lambda optimizer: schedules.OneCycleLR(optimizer, 0.2, total_steps=STEPS), "step"),
    "plateau": Schedule(
        lambda optimizer: schedules.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.3),
        metric="held_out + train_loss",
    ),
    "milestones": Schedule(lambda optimizer: schedules.MultiStepLR(optimizer, [1, 1, 3], 0.5)),
    "sequence": Schedule(two_after_another),
    "lambda": Schedule(lambda optimizer: schedules.LambdaLR(optimizer, lambda epoch: 0.8**epoch)),
}


def train_run(
    path: Path,
    schedule: str = "none",
    stop: Callable[[str, int], None] = never,
    resume: bool = False,
    augmented: bool = False,
    checkpoint_every: int | None = None,
    epochs: int = EPOCHS,
) -> tuple[nn.Module, SGD, hg.Recording]:
    """A run of hg.train, stopping at a "monitor", an "item" or a "step"."""
    model, chosen = net(), SCHEDULES[schedule]
    optimizer = sgd(model)
    held_out = points(samples=7, seed=1).tensors
    measured = 0

    def monitor(model: nn.Module) -> dict[str, float]:
        nonlocal measured
        stop("monitor", measured)
        measured += 1
        return {"held_out": loss(model, held_out).mean().item()}

    run = hg.train(
        model,
        loss,
        Augmented(stop) if augmented else points(),
        optimizer,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        out=path,
        scheduler=chosen.make(optimizer),
        scheduler_every=chosen.every,
        scheduler_metric=chosen.metric,
        monitor=monitor,
        observers=[StoppingObserver(stop)],
        checkpoint_every=checkpoint_every,
        resume=resume,
    )
    return model, optimizer, run


def loader_of(dataset: Dataset[Any], order: str, workers: int = 0) -> DataLoader[Any]:
    """A shuffled loader whose order comes from the global generator or from one of its own."""
    if order == "global":
        return DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=workers)
    own = torch.Generator().manual_seed(11)
    if order == "own":
        return DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=workers, generator=own)
    assert order == "sampler"
    return DataLoader(dataset, BATCH_SIZE, sampler=RandomSampler(dataset, generator=own), num_workers=workers)


def own_loop(
    path: Path,
    order: str = "global",
    schedule: str = "step",
    stop: Callable[[str, int], None] = never,
    resume: bool = False,
    workers: int = 0,
    checkpoint_every: int | None = None,
    epochs: int = EPOCHS,
) -> tuple[nn.Module, SGD, hg.Recording]:
    """A user's own loop, stopping "in", "before" or "after" a step, or at an epoch's "validation" or "end"."""
    torch.manual_seed(3)
    model, train_set, chosen = net(), Augmented(), SCHEDULES[schedule]
    optimizer = sgd(model)
    scheduler = chosen.make(optimizer)
    loader = loader_of(train_set, order, workers)
    with hg.Recorder(
        path, model, optimizer, loss, train_set, scheduler=scheduler, checkpoint_every=checkpoint_every, resume=resume
    ) as recorder:
        for epoch in range(recorder.next_step // len(loader), epochs):
            total = torch.zeros(())
            for indices, batch in hg.indexed(loader, recorder=recorder):
                stop("before", recorder.next_step)
                with recorder.step(indices):
                    optimizer.zero_grad()
                    mean = loss(model, batch).mean()
                    mean.backward()
                    stop("in", recorder.next_step)
                    optimizer.step()
                stop("after", recorder.next_step)
                total += mean.detach()
                torch.rand(())  # the user's own draws between steps are the user's
                if chosen.every == "step":
                    scheduler.step()
            stop("validation", epoch)
            if scheduler is not None and chosen.every == "epoch":
                scheduler.step(total.item()) if chosen.metric else scheduler.step()
            stop("end", epoch)
    return model, optimizer, hg.Recording(path, model, loss, train_set)


def plain_loop(recorder: hg.Recorder, model: nn.Module, optimizer: Optimizer, train_set: Any, steps: int = 3) -> None:
    """The first steps of the plainest loop, in the order of the data."""
    for step in range(steps):
        indices = [(step * BATCH_SIZE + i) % len(train_set) for i in range(BATCH_SIZE)]
        batch = torch.utils.data.default_collate([train_set[i] for i in indices])
        with recorder.step(indices, batch):
            optimizer.zero_grad()
            loss(model, batch).mean().backward()
            optimizer.step()


# --- what to hold of them


def digests(path: Path) -> dict[str, str]:
    """A digest of every file below a folder."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def assert_bit_equal(given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert given.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(given[name], value), name


def replayed(run: hg.Recording) -> Checkpoint:
    """Every step once more from the first checkpoint on, held to the record; the state at the end."""
    with run.replay() as replay:
        replay.trajectory.restore(run.initial)
        for record in run.steps:
            if run.has_checkpoint(record.step):
                replay.check_against(run.checkpoint(record.step))
            replay.advance(record, run.batch(record))
        return replay.trajectory.checkpoint(len(run.steps))


def assert_replays_to(run: hg.Recording, model: nn.Module, optimizer: Optimizer) -> None:
    """The replay ends at the user's weights, running statistics and momentum, to the bit."""
    end, user = replayed(run), snapshot(len(run.steps), model, optimizer)
    assert_bit_equal(end.parameters, user.parameters)
    assert_bit_equal(end.buffers, user.buffers)
    assert_bit_equal(end.momentum, user.momentum)
    assert_bit_equal(dict(run.trained_model().state_dict()), dict(model.state_dict()))


def assert_same_run(
    given: tuple[nn.Module, SGD, hg.Recording], expected: tuple[nn.Module, SGD, hg.Recording], *logs: str
) -> None:
    """Two runs ended at the same bits and logged the same."""
    one, other = (snapshot(0, model, optimizer) for model, optimizer, _ in (given, expected))
    assert given[2].steps == expected[2].steps
    for log in ("steps.jsonl", *logs):
        assert (given[2].path / log).read_text() == (expected[2].path / log).read_text()
    assert_bit_equal(one.parameters, other.parameters)
    assert_bit_equal(one.buffers, other.buffers)
    assert_bit_equal(one.momentum, other.momentum)
    assert one.groups == other.groups
    assert given[2].completed
