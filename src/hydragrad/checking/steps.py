"""The two steps, on copies: plain, or with an observer around them; and how long they take."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
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

REPEATED_SECONDS, REPEATS = 0.3, 4
"""What is timed is repeated until it took so long, at most so often; the shortest time counts."""


def make_steps(setup: Setup, copies: Copies, observer: StepObserver | None = None, count: int | None = None) -> float:
    """Make the first steps, all if `count` is None, in the way of hg.train; returns the seconds of the last one."""
    seconds = 0.0
    for step, group in enumerate(setup.groups[:count]):
        begin = now(setup.device)
        _one_step(setup, copies, group, step, observer)
        seconds = now(setup.device) - begin
    return seconds


def _one_step(setup: Setup, copies: Copies, group: Any, step: int, observer: StepObserver | None) -> None:
    size, total = sum(map(len, group)), 0.0
    for number, batch_indices in enumerate(group):
        again = f":{number}" if number else ""
        indices = Indices(batch_indices)
        indices.batch_seed = stream_seed(SEED, step, BATCH + again)
        data = fetch(setup.data, indices, seed=indices.batch_seed, collate=setup.collate, device=setup.device)
        block: AbstractContextManager[Any] = seeded(stream_seed(SEED, step, FORWARD + again))
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
    """Seconds, once the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def shortest(job: Callable[[], float]) -> float:
    """The shortest of several times that a job reports."""
    times, begin = [job()], time.perf_counter()
    while len(times) < REPEATS and time.perf_counter() - begin < REPEATED_SECONDS:
        times.append(job())
    return min(times)


def timed(device: torch.device, job: Callable[[], object]) -> float:
    """Seconds of a job."""
    begin = now(device)
    job()
    return now(device) - begin
