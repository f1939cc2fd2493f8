"""Networks trained with AdamW, and what really happens without some of their samples: the truth of `adam`."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer
from torch.utils.data import TensorDataset

from hydragrad.datasets import load, load_text, published
from hydragrad.derivatives import PerSampleLoss, copy_of
from hydragrad.experiments.recipes import cross_entropy
from hydragrad.experiments.text_recipes import fresh_text_model, next_token_loss
from hydragrad.models import LeNet5
from hydragrad.recording import Recorder
from hydragrad.replay import Recording
from hydragrad.replay.changed_run import Change
from hydragrad.replay.retraining import retrain
from hydragrad.runs.buffers import put_state
from hydragrad.runs.manifest import FILE, read_manifest
from hydragrad.scores import Query, mean_loss, sample_losses
from studies.networks import NETWORKS
from studies.rows import saved_array
from studies.subsets import random_subsets

Array = NDArray[np.float64]

ONE = "one image"
SHARES = {"10 %": 0.1, "2 %": 0.02, "1 %": 0.01}
HALVED = "10 %"
"""Groups whose halves are left out as well."""
DATA = "random halves"


class Started(NamedTuple):
    """An initialised network with its optimizer, and its schedule by step if it has one."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: Any = None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is trained, and what is asked of it.

    Attributes:
        name: In rows and paths.
        data: Training samples and tests, from a folder of data.
        start: Initialises; takes the seed, the steps and the folder of data.
        loss: Per-sample losses.
        steps, batch_size, clip_norm: Of the training.
        removed: What is left out: some of ONE, SHARES and DATA.
        held_out: Tests whose mean loss is queried.
        chunks: Tests whose single losses are queried, in groups that are attributed together.
    """

    name: str
    data: Callable[[Path | None], tuple[TensorDataset, TensorDataset]]
    start: Callable[[int, int, Path | None], Started]
    loss: PerSampleLoss
    steps: int
    batch_size: int
    clip_norm: float | None = None
    removed: tuple[str, ...]
    held_out: int
    chunks: tuple[range, ...]


def _mnist(data_dir: Path | None) -> tuple[TensorDataset, TensorDataset]:
    """The first 6,000 training and 500 test images, pixels / 255, flat."""
    digits = published("mnist", data_dir=data_dir)

    def part(images: NDArray[np.uint8], labels: NDArray[np.int64], count: int) -> TensorDataset:
        flat = torch.tensor(images[:count, 0, 2:-2, 2:-2].reshape(-1, 784), dtype=torch.float32) / 255
        return TensorDataset(flat, torch.tensor(labels[:count]))

    return part(digits.train_images, digits.train_labels, 6000), part(digits.test_images, digits.test_labels, 500)


def _mnist_3000(data_dir: Path | None) -> tuple[TensorDataset, TensorDataset]:
    splits = load("mnist", data_dir=data_dir, train_size=3000)
    return splits.train, TensorDataset(*(part[:2000] for part in splits.test.tensors))


def _shakespeare(data_dir: Path | None) -> tuple[TensorDataset, TensorDataset]:
    splits = load_text("shakespeare", data_dir=data_dir, train_size=4096, test_size=50)
    return splits.train, splits.test


def _gpt(seed: int, steps: int, data_dir: Path | None) -> Started:
    splits = load_text("shakespeare", data_dir=data_dir, train_size=4096, test_size=50)
    started = fresh_text_model(splits, "gpt", seed=seed, steps=steps, sizes={})
    return Started(started.model, started.optimizer, started.scheduler)


def _small_mlp(activation: Callable[[], nn.Module], lr: float, seed: int, _steps: int, _data: Path | None) -> Started:
    torch.manual_seed(seed)
    layers = (nn.Linear(784, 16), activation(), nn.Linear(16, 16), activation(), nn.Linear(16, 10))
    model = nn.Sequential(*layers)
    return Started(model, AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0))


def _network(build: Callable[[int], nn.Module], seed: int, _steps: int, _data: Path | None) -> Started:
    torch.manual_seed(seed)
    model = build(1)
    return Started(model, AdamW(model.parameters(), lr=1e-3))


def _gelu_mlp(channels: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 1024, 64), nn.GELU(), nn.Linear(64, 10))


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}
RATES = ("1e-3", "1e-4", "1e-5")
IMAGE_NETWORKS: dict[str, tuple[Callable[[int], nn.Module], int]] = {
    "mlp-gelu": (_gelu_mlp, 3),
    "mlp": (NETWORKS["mlp"], 3),
    "lenet5-smooth": (NETWORKS["lenet5-smooth"], 4),
    "lenet5": (lambda channels: LeNet5(channels=channels, classes=10), 4),
}
"""Network and epochs."""

SUBJECTS: dict[str, tuple[Subject, ...]] = {
    "A": tuple(
        Subject(
            name=f"mlp-{name} {rate}",
            data=_mnist,
            start=partial(_small_mlp, activation, float(rate)),
            loss=cross_entropy,
            steps=94,
            batch_size=64,
            removed=(ONE,),
            held_out=500,
            chunks=(range(100),),
        )
        for name, activation in ACTIVATIONS.items()
        for rate in RATES
    ),
    "T": tuple(
        Subject(
            name=name,
            data=_mnist_3000,
            start=partial(_network, build),
            loss=cross_entropy,
            steps=47 * epochs,
            batch_size=64,
            removed=("10 %", "2 %"),
            held_out=2000,
            chunks=(range(10),),
        )
        for name, (build, epochs) in IMAGE_NETWORKS.items()
    ),
    "D": (
        Subject(
            name="gpt",
            data=_shakespeare,
            start=_gpt,
            loss=next_token_loss,
            steps=400,
            batch_size=32,
            clip_norm=1.0,
            removed=("10 %", "1 %", DATA),
            held_out=50,
            chunks=(range(4), *(range(start, min(50, start + 8)) for start in range(4, 50, 8))),
        ),
    ),
}
"""Protocol → what is trained."""


class AdamRun:
    """One run of a subject, and its removals; each is measured on first use, and saved.

    Args:
        folder: Holds the runs, their retrainings and what was computed from them.
        subject: What is trained.
        seed: Of initialisation and order.
        removals: How many groups of each size, or halves.
        data_dir: Folder of the data.
    """

    def __init__(self, folder: Path, subject: Subject, seed: int, *, removals: int, data_dir: Path | None) -> None:
        self.subject, self.seed, self.removals = subject, seed, removals
        self.train_set, self.tests = subject.data(data_dir)
        self._parent, self._data_dir = folder, data_dir
        self.folder = folder / f"{subject.name} {seed}".replace(" ", "-")

    @cached_property
    def run(self) -> Recording:
        """The recorded run, trained where it is not there."""
        subject, path = self.subject, self.folder / "run"
        started = subject.start(self.seed, subject.steps, self._data_dir)
        if not (path / FILE).exists() or read_manifest(path).status != "completed":
            shutil.rmtree(path, ignore_errors=True)
            model, optimizer, scheduler = started
            with Recorder(
                path, model, optimizer, subject.loss, self.train_set, scheduler=scheduler, seed=self.seed
            ) as recorder:
                for indices in self._batches(range(len(self.train_set)), subject.steps, self.seed):
                    with recorder.step(indices) as step:
                        losses = step.losses([part[indices] for part in self.train_set.tensors])
                        _descend(losses, *started, clip_norm=subject.clip_norm)
        return Recording(path, started.model, subject.loss, self.train_set)

    @cached_property
    def training(self) -> float:
        """Processor seconds of one training."""

        def measured() -> Array:
            begin = time.process_time()
            list(retrain(self.run, [Change(weights={0: 0.0})], keep=False))
            return np.array([time.process_time() - begin])

        return float(saved_array(self.folder / "training-seconds.npy", measured)[0])

    @cached_property
    def test_loss(self) -> float:
        """Mean loss of the tests, of the trained model."""
        return float(self._answers(self.run.trained_model())[0])

    def queries(self, chunk: int) -> list[Query]:
        """The queries of a chunk; the mean loss is the first one of the first chunk."""
        held_out = TensorDataset(*(part[: self.subject.held_out] for part in self.tests.tensors))
        mean = [mean_loss(held_out, name="mean test loss")] if chunk == 0 else []
        return [*mean, sample_losses(self.tests, self.subject.chunks[chunk])]

    def groups(self, removed: str) -> list[list[int]]:
        """The samples of each removal; of random halves what is left out."""
        length = len(self.train_set)
        if removed == ONE:
            return [[int(i)] for i in np.random.RandomState(0).permutation(length)[:200]]
        if removed == DATA:
            return [sorted(set(range(length)) - set(members)) for members in self._halves()]
        return random_subsets(self.removals, length, SHARES[removed], round(1e6 * SHARES[removed]))

    def ceilings(self, removed: str) -> int:
        """How many of the removals the ceilings are measured on."""
        return len(self.groups(removed)) // (2 if removed == DATA else 3)

    def actual(self, removed: str, count: int | None = None, *, noise: float = 0.0) -> Array:
        """Changes of [mean loss, single losses] by each of the first `count` removals, (queries, removals).

        Args:
            removed: What is left out.
            count: How many removals; all if None.
            noise: Relative size of a random change of the initial weights.
        """
        if removed == DATA:
            return self.of_the_data(1000, count)
        groups = self.groups(removed)[:count]
        changes = [self._change(group, removed, noise) for group in groups]
        return self._changes(f"{removed} {len(groups)} {noise:.1g}", changes)

    def halves(self) -> Array:
        """Changes by both halves of the first groups, summed."""
        groups = self.groups(HALVED)[: self.ceilings(HALVED)]
        halves = [half for group in groups for half in (group[::2], group[1::2])]
        changes = self._changes(f"halves {len(groups)}", [self._change(half, HALVED, 0.0) for half in halves])
        return changes[:, ::2] + changes[:, 1::2]

    def of_another_seed(self, removed: str) -> Array:
        """Changes of a run with the next seed without the same groups."""
        other = AdamRun(self._parent, self.subject, self.seed + 1, removals=self.removals, data_dir=self._data_dir)
        return other.actual(removed, self.ceilings(removed))

    def of_the_data(self, first_seed: int, count: int | None = None) -> Array:
        """Losses of networks trained on random halves, each with a seed of its own, (queries, halves)."""
        columns = []
        for number, members in enumerate(self._halves()[:count]):
            file = self._parent / f"{self.subject.name}-halves" / f"{first_seed + number}.npy"
            columns.append(saved_array(file, partial(self._of_half, members, first_seed + number)))
        return np.stack(columns, axis=1)

    def _of_half(self, members: Sequence[int], seed: int) -> Array:
        steps = self.subject.steps // 2
        started = self.subject.start(seed, steps, self._data_dir)
        for indices in self._batches(members, steps, seed):
            losses = self.subject.loss(started.model, [part[indices] for part in self.train_set.tensors])
            _descend(losses, *started, clip_norm=self.subject.clip_norm)
        return self._answers(started.model)

    def _halves(self) -> list[list[int]]:
        return random_subsets(self.removals, len(self.train_set), 0.5, 0)

    def _batches(self, members: Sequence[int], steps: int, seed: int) -> list[list[int]]:
        """The samples of each step, in an order of their own every epoch."""
        generator, samples = torch.Generator().manual_seed(seed), torch.tensor(list(members))
        batches: list[list[int]] = []
        while len(batches) < steps:
            order = samples[torch.randperm(len(samples), generator=generator)]
            batches += [batch.tolist() for batch in order.split(self.subject.batch_size)]
        return batches[:steps]

    def _change(self, group: Sequence[int], removed: str, noise: float) -> Change:
        weights = dict.fromkeys(group, 0.0)
        if removed == ONE:
            batch = self.batch_of[group[0]]
            weights = {i: len(batch) / (len(batch) - 1) for i in batch} | weights
        return Change(weights=weights, noise=noise)

    @cached_property
    def batch_of(self) -> dict[int, list[int]]:
        """The batch of each sample, where a run is one epoch."""
        return {i: list(record.indices) for record in self.run.steps for i in record.indices}

    def _changes(self, name: str, changes: Sequence[Change]) -> Array:
        def measured() -> Array:
            before, columns = self._answers(self.run.trained_model()), {}
            for number, state in retrain(self.run, changes, keep=True):
                model = copy_of(self.run.model)
                put_state(model, state)
                columns[number] = self._answers(model) - before
            return np.stack([columns[number] for number in range(len(changes))], axis=1)

        return saved_array(self.folder / "truth" / f"{name}.npy", measured)

    def _answers(self, model: nn.Module) -> Array:
        """Mean and single losses in float64: the smallest rate moves a loss by little more than a rounding."""
        double = copy_of(model).double().eval()
        tensors = [part.double() if part.is_floating_point() else part for part in self.tests.tensors]
        batches = [part.split(250) for part in tensors]
        with torch.no_grad():
            parts = [self.subject.loss(double, batch) for batch in zip(*batches, strict=True)]
        losses = torch.cat(parts)
        singles = [i for chunk in self.subject.chunks for i in chunk]
        return np.asarray(torch.cat([losses[: self.subject.held_out].mean()[None], losses[singles]]).numpy())


def _descend(
    losses: Tensor, model: nn.Module, optimizer: Optimizer, scheduler: Any, *, clip_norm: float | None
) -> None:
    """One step of torch's optimizer, and of its schedule."""
    optimizer.zero_grad()
    losses.mean().backward()
    if clip_norm is not None:
        clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    if scheduler is not None:
        scheduler.step()
