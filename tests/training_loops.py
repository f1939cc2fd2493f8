"""Training loops as people write them, each written once: with a recorder around it, or retrained with other weights.

A loop gets a `watcher`: the Recorder, or a stand-in that gives the same seeds and puts a weight on every sample's loss.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

import hydragrad as hg
from cases import SAMPLES, SEED, Case, collate
from hydragrad.randomness import FORWARD, preserved, reseed, stream_seed

BATCH = 4
EPOCHS = 3


@dataclass
class Training:
    """What a loop trains.

    Attributes:
        watcher: Has `step(indices)`, whose handle gives losses.
        batches: The samples of every batch of an epoch.
    """

    case: Case
    model: nn.Module
    optimizer: Optimizer
    watcher: Any
    scheduler: Any = None

    def batches(self, epoch: int) -> Iterator[list[int]]:
        order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(50 + epoch))
        yield from (part.tolist() for part in order.split(BATCH))

    def data(self, indices: Sequence[int]) -> Any:
        return collate(self.case.train_set, indices)


Loop = Callable[[Training], None]


def clipped(t: Training) -> None:
    """Clipping of all parameters by their norm, which acts at some steps."""
    for epoch in range(EPOCHS):
        for indices in t.batches(epoch):
            with t.watcher.step(indices) as step:
                t.optimizer.zero_grad()
                step.losses(t.data(indices)).mean().backward()
                clip_grad_norm_(t.model.parameters(), 0.5)
                t.optimizer.step()


def clipped_in_parts(t: Training) -> None:
    """By value of the first parameter, then two parts by different norms."""
    first, *others = [p for p in t.model.parameters() if p.requires_grad]
    for epoch in range(EPOCHS):
        for indices in t.batches(epoch):
            with t.watcher.step(indices) as step:
                t.optimizer.zero_grad()
                step.losses(t.data(indices)).mean().backward()
                clip_grad_value_(first, 0.05)
                clip_grad_norm_([first], 0.1, norm_type=1.0)
                nn.utils.clip_grad_norm_(iter(others), 0.4, foreach=False)
                t.optimizer.step()


def accumulated(t: Training) -> None:
    """Groups of three micro-batches, the last of an epoch incomplete, all divided by three."""
    for epoch in range(EPOCHS):
        batches = list(t.batches(epoch))
        for number, indices in enumerate(batches):
            with t.watcher.step(indices) as step:
                (step.losses(t.data(indices)).mean() / 3).backward()
                if (number + 1) % 3 == 0 or number + 1 == len(batches):
                    t.optimizer.step()
                    t.optimizer.zero_grad()


def left_over(t: Training) -> None:
    """An incomplete last group that no step follows: the next epoch clears its gradients."""
    for epoch in range(EPOCHS):
        t.optimizer.zero_grad()
        for number, indices in enumerate(t.batches(epoch)):
            if (epoch, number) == (EPOCHS - 1, 4):
                break
            with t.watcher.step(indices) as step:
                (step.losses(t.data(indices)).sum() / 8).backward()
                if number % 2:
                    t.optimizer.step()
                    t.optimizer.zero_grad(set_to_none=False)


def token_mean(t: Training) -> None:
    """Language models: the sum of losses over the tokens of the whole accumulated batch; clipping, a schedule."""
    for epoch in range(EPOCHS):
        batches = list(t.batches(epoch))
        for start in range(0, len(batches), 2):
            group = batches[start : start + 2]
            tokens = sum(1 + index % 3 for indices in group for index in indices)
            for number, indices in enumerate(group):
                with t.watcher.step(indices) as step:
                    (step.losses(t.data(indices)).sum() / tokens).backward()
                    if number + 1 == len(group):
                        clip_grad_norm_(t.model.parameters(), 0.3)
                        t.optimizer.step()
                        t.scheduler.step()
                        t.optimizer.zero_grad()


def class_weights(t: Training) -> None:
    """A weighted mean, the weights of its samples fixed."""
    for epoch in range(EPOCHS):
        for indices in t.batches(epoch):
            weights = torch.tensor([0.5 + index % 3 for index in indices], dtype=torch.float64)
            with t.watcher.step(indices) as step:
                t.optimizer.zero_grad()
                ((step.losses(t.data(indices)) * weights).sum() / weights.sum()).backward()
                t.optimizer.step()


LOOPS: dict[str, Loop] = {
    loop.__name__: loop for loop in (clipped, clipped_in_parts, accumulated, left_over, token_mean, class_weights)
}


def record(case: Case, loop: Loop, path: Path, **options: Any) -> hg.Recording:
    """Record a loop."""
    model = case.build()
    optimizer = case.options.optimizer(model)
    recorder = hg.Recorder(path, model, optimizer, case.loss, case.train_set, seed=SEED, **options)
    with recorder:
        loop(Training(case, model, optimizer, recorder, CosineAnnealingLR(optimizer, 8)))
    return hg.Recording(path, case.build(), case.loss, case.train_set)


def track(case: Case, loop: Loop, path: Path | None = None, **options: Any) -> hg.Tracker:
    """Track a loop, and record it, too, where there is a path."""
    model = case.build()
    optimizer = case.options.optimizer(model)
    tracker = hg.Tracker(model, optimizer, case.loss, case.train_set, seed=SEED, **options)
    with ExitStack() as stack:
        observers: list[Any] = [tracker]
        if path is not None:
            observers.insert(0, hg.Recorder(path, model, optimizer, case.loss, case.train_set, seed=SEED))
        for observer in observers:
            stack.enter_context(observer)
        loop(Training(case, model, optimizer, _Both(observers), CosineAnnealingLR(optimizer, 8)))
    return tracker


class _Both:
    """Several observers around every block; the handle is the last one's."""

    def __init__(self, observers: Sequence[Any]) -> None:
        self._observers = observers

    @contextmanager
    def step(self, indices: Sequence[int]) -> Iterator[Any]:
        with ExitStack() as stack:
            yield [stack.enter_context(observer.step(indices)) for observer in self._observers][-1]


def retrain(case: Case, loop: Loop, weights: Tensor) -> nn.Module:
    """The same loop without a recorder, with a weight on every sample's loss."""
    model = case.build()
    optimizer = case.options.optimizer(model)
    with preserved():
        loop(
            Training(
                case, model, optimizer, Weighted(case.loss, model, optimizer, weights), CosineAnnealingLR(optimizer, 8)
            )
        )
    return model


class Weighted:
    """Gives weighted losses, under the seeds that a recorder would give."""

    def __init__(self, loss: Any, model: nn.Module, optimizer: Optimizer, weights: Tensor) -> None:
        self._loss, self._model, self._weights = loss, model, weights
        self._step = self._number = 0
        optimizer.register_step_post_hook(self._stepped)

    def _stepped(self, *_: Any) -> None:
        self._step, self._number = self._step + 1, 0

    @contextmanager
    def step(self, indices: Sequence[int]) -> Iterator["Weighted"]:
        self._indices, step = [int(index) for index in indices], self._step
        reseed(stream_seed(SEED, step, FORWARD, self._number))
        yield self
        if self._step == step:
            self._number += 1

    def losses(self, batch: Any) -> Tensor:
        losses: Tensor = self._loss(self._model, batch) * self._weights[self._indices]
        return losses
