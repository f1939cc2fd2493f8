"""Tiny runs to kill, damage and replay: 22 samples, 5 steps an epoch, dropout on."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import Dataset, TensorDataset

import hydragrad as hg
from hydragrad.randomness import seeded

SAMPLES, CLASSES, BATCH_SIZE, EPOCHS = 22, 3, 5, 4
PER_EPOCH = -(-SAMPLES // BATCH_SIZE)
STEPS = EPOCHS * PER_EPOCH

Hook = Callable[[], None]


def samples(length: int = SAMPLES) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(length, 4, generator=generator)
    return TensorDataset(x, torch.randint(CLASSES, (length,), generator=generator))


class Plain(Dataset[Any]):
    """The same samples from a data set of the user's own, which may call a hook at every access."""

    def __init__(self, hook: Hook = lambda: None) -> None:
        self.x, self.y = samples().tensors
        self.hook = hook

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.hook()
        return self.x[index], self.y[index]


def build() -> nn.Module:
    with seeded(7):
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, CLASSES))


def build_batch_norm() -> nn.Module:
    with seeded(7):
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, CLASSES))


def sgd(model: nn.Module, **options: Any) -> SGD:
    return SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.8, **options})


def loss(model: Any, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def train(path: Path, model: nn.Module | None = None, data: Any = None, **options: Any) -> hg.Recording:
    """hg.train on the toy, any argument replaced."""
    model = build() if model is None else model
    given = {"loss": loss, "optimizer": None, "epochs": EPOCHS, "batch_size": BATCH_SIZE, **options}
    given["optimizer"] = given["optimizer"] or sgd(model)
    return hg.train(model, train_set=samples() if data is None else data, out=path, **given)


def take_step(
    recorder: hg.Recorder, model: nn.Module, optimizer: Optimizer, indices: Sequence[int], batch: Any
) -> None:
    """One step as a user writes it."""
    with recorder.step(indices):
        optimizer.zero_grad()
        loss(model, batch).mean().backward()
        optimizer.step()


def digest(path: Path) -> dict[str, str]:
    """Digests of all files below a folder."""
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def log_of(path: Path) -> list[str]:
    """The step log and the epoch log, line by line."""
    return [
        line
        for name in ("steps.jsonl", "epochs.jsonl")
        if (path / name).exists()
        for line in (path / name).read_text().splitlines()
    ]


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    """Equal to the bit, buffers included."""
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def replays_to_the_bit(run: hg.Recording) -> bool:
    """Go through the whole run; every departure is an error in itself."""
    assert run.same_machine
    ends = {stop for _, stop in run.segments}
    with run.replay() as replay:
        replay.trajectory.restore(run.initial)
        for record in run.steps:
            replay.advance(record, run.batches(record))
            if record.step + 1 in ends and run.has_checkpoint(record.step + 1):
                replay.check_against(run.checkpoint(record.step + 1))
    return replay.drift == 0


def drift_of(run: hg.Recording) -> float:
    """Go through the run segment by segment, and hold each end to its checkpoint."""
    with run.replay() as replay:
        for start, stop in run.segments:
            replay.trajectory.restore(run.checkpoint(start))
            for record in run.steps[start:stop]:
                replay.advance(record, run.batches(record))
            replay.check_against(run.checkpoint(stop))
        return replay.drift
