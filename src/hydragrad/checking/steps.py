"""The two steps, on copies: plain, or with an observer around them; and how long they take."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hydragrad.checking.setup import Copies, Setup
from hydragrad.derivatives import check_losses
from hydragrad.randomness import BATCH, FORWARD, seeded, stream_seed
from hydragrad.recording import Indices, StepObserver
from hydragrad.replay import fetch
from hydragrad.training import batch_losses

SEED = 0

MOST_STEPS, ENOUGH_SECONDS = 12, 0.5
"""Steps are timed at most so many, and at least one more than two, until they took so long."""


def make_steps(setup: Setup, copies: Copies, observer: StepObserver | None = None, count: int | None = None) -> None:
    """Make the first steps, all if `count` is None, in the way of hg.train."""
    for step, group in enumerate(setup.groups[:count]):
        _one_step(setup, copies, group, step, observer)


def fastest_step(setup: Setup, copies: Copies, observer: StepObserver | None = None) -> float:
    """Seconds of work of the fastest of some steps after the first; the batches come again and again."""
    times, begin = list[float](), time.perf_counter()
    while len(times) <= len(setup.groups) or (len(times) < MOST_STEPS and time.perf_counter() - begin < ENOUGH_SECONDS):
        group = setup.groups[len(times) % len(setup.groups)]
        times.append(timed(setup.device, partial(_one_step, setup, copies, group, len(times), observer)))
    return min(times[1:])


def _one_step(setup: Setup, copies: Copies, group: Any, step: int, observer: StepObserver | None) -> None:
    size, total = sum(map(len, group)), 0.0
    for number, batch_indices in enumerate(group):
        indices = Indices(batch_indices)
        indices.batch_seed = stream_seed(SEED, step, BATCH, number)
        data = fetch(setup.data, indices, seed=indices.batch_seed, collate=setup.collate, device=setup.device)
        block: AbstractContextManager[Any] = seeded(stream_seed(SEED, step, FORWARD, number))
        if observer is not None:
            block = observer.step(indices, data)
        with block as handle:
            if number == 0:
                for optimizer in copies.optimizers:
                    optimizer.zero_grad()
            with under(setup):
                losses = batch_losses(_evaluation(setup, copies, handle, len(group)), data, indices)
                check_losses(losses, len(indices))
            mean = losses.mean() if len(group) == 1 else losses.sum() / size
            mean.backward()
            total += mean.item()
            if number + 1 == len(group):
                if setup.clip_norm is not None:
                    clip_grad_norm_(copies.model.parameters(), setup.clip_norm)
                for optimizer in copies.optimizers:
                    optimizer.step()
    if isinstance(copies.scheduler, ReduceLROnPlateau):
        copies.scheduler.step(total)
    elif copies.scheduler is not None:
        copies.scheduler.step()


def _evaluation(setup: Setup, copies: Copies, handle: Any, batches: int) -> Callable[[Any], torch.Tensor]:
    """Of several batches the observer must see the coefficients; of one it assumes the mean."""
    if handle is not None and batches > 1:
        evaluate: Callable[[Any], torch.Tensor] = handle.losses
        return evaluate
    return lambda data: setup.loss(copies.model, data)


def under(setup: Setup) -> AbstractContextManager[Any]:
    """What forward passes run under."""
    return nullcontext() if setup.autocast is None else torch.autocast(setup.device.type, setup.autocast)


def now(device: torch.device) -> float:
    """Seconds of work: of this process, which other processes do not lengthen; on a GPU once it is done."""
    if device.type == "cpu":
        return time.process_time()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(device: torch.device, job: Callable[[], object]) -> float:
    """Seconds of work of a job."""
    begin = now(device)
    job()
    return now(device) - begin
