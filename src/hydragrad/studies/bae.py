"""Subsets of half of the data, averaged over seeds, on the Fashion-MNIST setting of SOURCE.

6,144 training images, an MLP 784-512-256-128-10 with ReLU, 20 epochs of SGD; asked: the margins of single test images.
LDS over random halves whose networks' margins are averaged over several seeds, so that little seed noise is left; at
how many halves and seeds is for the machine to say. *Ceiling* is one half of the seeds taken as a prediction of the
other half.

Source: Bae, Lin, Lorraine, Grosse, "Training Data Attribution via Approximate Unrolling", NeurIPS 2024 (SOURCE), with
100 halves, 50 seeds and 100 test images. Ours: the first 6,144 training images, normalised by mean and standard
deviation, and test images drawn at random; the authors' choice of them is not known to us.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import TensorDataset

from hydragrad.datasets import published
from hydragrad.scores import sample_margins
from hydragrad.scores.margins import margins
from hydragrad.studies.estimates import ESTIMATORS, estimate
from hydragrad.studies.recipes import cross_entropy
from hydragrad.studies.rows import kept_array, replace_rows
from hydragrad.studies.subsets import Training, answers_on_subsets, random_subsets, score
from hydragrad.trust.lds import lds, lds_interval

ROWS_FILE = "bae.jsonl"
TRAIN, TESTS = 6144, 1000
Array = NDArray[np.float64]


def _mlp() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU()),
        *(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


TRAINING = Training(
    build=_mlp,
    loss=cross_entropy,
    measure=margins,
    epochs=20,
    batch_size=64,
    lr=0.03,
    momentum=0.9,
    weight_decay=1e-3,
    at_once=2,
)
DAMPING, ITERATIONS = 0.01, 10


@dataclass(frozen=True, kw_only=True)
class BaeRow:
    """One estimator, averaged over `runs` runs; LDS with 90 % of resampled subsets."""

    estimator: str
    runs: int
    lds: float
    low: float
    high: float
    queries: int
    subsets: int
    seeds: int

    def key(self) -> tuple[object, ...]:
        """What is measured once."""
        return self.estimator, self.runs, self.queries, self.subsets, self.seeds


@dataclass(frozen=True, kw_only=True)
class BaeSetting:
    """How much is measured.

    Attributes:
        subsets: Random halves.
        seeds: Networks trained on each.
        queries: Test images asked about.
        runs: Runs to average contributions over.
        estimators: Some of `ESTIMATORS`.
    """

    subsets: int = 30
    seeds: int = 2
    queries: int = 16
    runs: int = 1
    estimators: tuple[str, ...] = ESTIMATORS


def reproduce_bae(out: Path, setting: BaeSetting, *, data_dir: Path | None = None) -> list[BaeRow]:
    """Measure; answers of networks, runs and contributions in `out` are kept.

    Args:
        out: Folder for all of that and the rows.
        setting: How much is measured.
        data_dir: Where Fashion-MNIST lies.
    """
    out.mkdir(parents=True, exist_ok=True)
    train, tests = _fashion(data_dir)
    chosen = np.random.RandomState(0).permutation(TESTS)[: setting.queries].tolist()
    halves = random_subsets(setting.subsets, TRAIN, 0.5, 0)
    answers = [
        answers_on_subsets(
            TRAINING,
            train,
            halves,
            [10_000 * (seed + 1) + i for i in range(len(halves))],
            tests,
            out / f"halves-seed-{seed}",
        )[:, chosen].T
        for seed in range(setting.seeds)
    ]
    truth = np.mean(answers, axis=0)
    rows = []
    if setting.seeds > 1:
        first, second = (np.mean(answers[part::2], axis=0) for part in (0, 1))
        rows.append(_row(setting, "ceiling", 1, (lds(first, second), *lds_interval(first, second))))
    for estimator in setting.estimators:
        each = [_contributions(estimator, train, tests, chosen, seed, out) for seed in range(setting.runs)]
        for runs in sorted({1, setting.runs}):
            rows.append(_row(setting, estimator, runs, score(np.mean(each[:runs], axis=0), halves, truth)))
    replace_rows(out / ROWS_FILE, rows, BaeRow.key)
    return rows


def _fashion(data_dir: Path | None) -> tuple[TensorDataset, TensorDataset]:
    """The first training and test images, normalised by mean and standard deviation, flat."""
    given = published("fashion", data_dir=data_dir)

    def part(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> TensorDataset:
        flat = torch.tensor(images[:, 0, 2:-2, 2:-2].reshape(-1, 784), dtype=torch.float32) / 255
        return TensorDataset((flat - given.mean[0]) / given.std[0], torch.tensor(labels))

    train = part(given.train_images[:TRAIN], given.train_labels[:TRAIN])
    return train, part(given.test_images[:TESTS], given.test_labels[:TESTS])


def _contributions(
    estimator: str, train: TensorDataset, tests: TensorDataset, chosen: list[int], seed: int, out: Path
) -> Array:
    """Contributions (queries, samples) of one run."""
    asked = sample_margins(tests, chosen)

    def measure() -> Array:
        recorded = partial(TRAINING.recorded, train, seed, out / f"run-{seed}")
        return estimate(estimator, recorded, asked, seed=seed, damping=DAMPING, iterations=ITERATIONS)

    return kept_array(out / "contributions" / f"{estimator} {seed} {len(chosen)}.npy", measure)


def _row(setting: BaeSetting, estimator: str, runs: int, found: tuple[float, float, float]) -> BaeRow:
    value, low, high = found
    return BaeRow(
        estimator=estimator,
        runs=runs,
        lds=value,
        low=low,
        high=high,
        queries=setting.queries,
        subsets=setting.subsets,
        seeds=setting.seeds,
    )
