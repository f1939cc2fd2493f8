"""Runs in processes of their own that really die by SIGKILL, and the same runs without."""

import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

import hydragrad as hg
from recording.toys import BATCH_SIZE, EPOCHS, STEPS, Plain, build, build_batch_norm, loss, samples, sgd, train

# Every process is forked from a server that has imported what is slow to import and has run nothing.
server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["torch._dynamo", "hydragrad"])


def killed(run: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Call `run` in another process, which must kill itself before it returns."""
    process = server.Process(target=_on_one_thread, args=(run, args, options))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL, f"the process was not killed; exit code {process.exitcode}"


def _on_one_thread(run: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    run(*args, **options)


@dataclass(frozen=True)
class Kill:
    """Kills the process when the run comes by a place for the count-th time."""

    place: str
    count: int

    def __call__(self, place: str, count: int) -> None:
        if (place, count) == (self.place, self.count):
            os.kill(os.getpid(), signal.SIGKILL)


def nowhere(place: str, count: int) -> None:
    """Go on."""


class Augmented(Plain):
    """Every item is disturbed by torch's, NumPy's and Python's global generators."""

    def __init__(self) -> None:
        super().__init__(hook=int)  # does nothing, and can be sent to a worker process

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = super().__getitem__(index)
        return x + 0.1 * (torch.rand(()) + np.random.random() + random.random()), y


SCHEDULES: dict[str, Callable[[Optimizer], Any]] = {
    "lambda": lambda optimizer: LambdaLR(optimizer, lambda epoch: 0.8**epoch),
    "one cycle": lambda optimizer: OneCycleLR(optimizer, 0.2, total_steps=STEPS),
    "plateau": lambda optimizer: ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.5),
}
ORDERS = ("global", "loader's", "sampler's", "batch sampler's", "python's")


class ShuffledByPython(SequentialSampler):
    """A user's own sampler."""

    def __iter__(self) -> Any:
        order = list(range(len(self)))
        random.shuffle(order)
        return iter(order)


def loader_of(data: Dataset[Any], order: str, workers: int = 0) -> DataLoader[Any]:
    """A shuffled loader, by where its order comes from."""
    own = torch.Generator().manual_seed(11)
    sampler = RandomSampler(data, generator=own)
    options: dict[str, Any] = {
        "global": {"batch_size": BATCH_SIZE, "shuffle": True},
        "loader's": {"batch_size": BATCH_SIZE, "shuffle": True, "generator": own},
        "sampler's": {"batch_size": BATCH_SIZE, "sampler": sampler},
        "batch sampler's": {"batch_sampler": BatchSampler(sampler, BATCH_SIZE, False)},
        "python's": {"batch_size": BATCH_SIZE, "sampler": ShuffledByPython(data)},
    }[order]
    context = "fork" if workers else None
    return DataLoader(data, num_workers=workers, multiprocessing_context=context, **options)


OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "sgd": sgd,
    "adam": lambda model: Adam(model.parameters(), lr=0.05, weight_decay=0.1),
    "adamw": lambda model: AdamW(model.parameters(), lr=0.05, foreach=True),
    "amsgrad": lambda model: AdamW(model.parameters(), lr=0.05, betas=(0.8, 0.6), amsgrad=True),
    "fused": lambda model: AdamW(model.parameters(), lr=0.05, fused=True),
    "tensor rate": lambda model: Adam(model.parameters(), lr=torch.tensor(0.05)),
}


def users_loop(
    path: Path,
    order: str = "global",
    schedule: str = "lambda",
    *,
    stop: Callable[[str, int], None] = nowhere,
    workers: int = 0,
    epochs: int = EPOCHS,
    optimizer_name: str = "sgd",
    **options: Any,
) -> nn.Module:
    """A script with everything in it; it comes by "in" and "after" a step, "next", and the "end" of an epoch."""
    torch.manual_seed(3)
    random.seed(3)
    model, data, held_out = build_batch_norm(), Augmented(), samples(6)
    optimizer = OPTIMIZERS[optimizer_name](model)
    scheduler = SCHEDULES[schedule](optimizer)
    loader = loader_of(data, order, workers)
    with hg.Recorder(path, model, optimizer, loss, data, scheduler=scheduler, **options) as recorder:
        for epoch in range(recorder.next_step // len(loader), epochs):
            for indices, batch in hg.indexed(loader, recorder=recorder):
                with recorder.step(indices):
                    optimizer.zero_grad()
                    loss(model, batch).mean().backward()
                    stop("in", recorder.next_step)
                    optimizer.step()
                stop("after", recorder.next_step)
                torch.rand(())  # between steps the user's draws are the user's own
                if schedule == "one cycle":
                    scheduler.step()
                stop("next", recorder.next_step)
            stop("end", epoch)
            with torch.no_grad():
                measured = loss(model.eval(), held_out.tensors).mean().item()
                model.train()
            if schedule != "one cycle":
                scheduler.step(*([measured] if schedule == "plateau" else []))
    return model


def long_loop(path: Path) -> None:
    """Trains until it is killed from outside."""
    users_loop(path, epochs=1_000_000)


def monitored(path: Path, stop: Callable[[str, int], None] = nowhere, **options: Any) -> tuple[nn.Module, hg.Recording]:
    """hg.train under a plateau schedule; it comes by the place "monitor"."""
    model, calls = build(), []
    optimizer = sgd(model)

    def monitor(model: nn.Module) -> dict[str, float]:
        stop("monitor", len(calls))
        calls.append(model)
        return {"held_out": loss(model, samples(7).tensors).mean().item()}

    run = train(
        path,
        model,
        optimizer=optimizer,
        scheduler=ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.5),
        scheduler_metric="held_out",
        monitor=monitor,
        **options,
    )
    return model, run
