"""Subsets of half of the data, averaged over seeds, on the Fashion-MNIST setting of SOURCE.

6,144 training images, an MLP 784-512-256-128-10 with ReLU, 20 epochs of SGD; queries are the margins of
single test images. LDS over random halves whose networks' margins are averaged over several seeds, so that little seed
noise is left; the number of halves and seeds depends on the machine. *Ceiling* is one half of the seeds taken as a
prediction of the other half.

Source: Bae, Lin, Lorraine, Grosse, "Training Data Attribution via Approximate Unrolling", NeurIPS 2024 (SOURCE), with
100 halves, 50 seeds and 100 test images. Ours: the first 6,144 training images, normalised by mean and standard
deviation, and random test images; the authors' choice of them is not published.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import TensorDataset

from hydragrad.cli.console import columns, number, write_json
from hydragrad.cli.options import DataDir, Json, Quiet, named_among
from hydragrad.datasets import published
from hydragrad.experiments.recipes import cross_entropy
from hydragrad.progress import quiet
from hydragrad.scores import sample_margins
from hydragrad.scores.margins import margins
from hydragrad.trust.lds import lds, lds_interval
from studies.estimates import ESTIMATORS, estimate
from studies.rows import replace_rows, saved_array
from studies.subsets import Training, answers_on_subsets, random_subsets, score

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
        """Return what identifies a measurement."""
        return self.estimator, self.runs, self.queries, self.subsets, self.seeds


@dataclass(frozen=True, kw_only=True)
class BaeSetting:
    """How much is measured.

    Attributes:
        subsets: Random halves.
        seeds: Networks trained on each.
        queries: Test images.
        runs: Runs to average contributions over.
        estimators: Some of `ESTIMATORS`.
    """

    subsets: int = 30
    seeds: int = 2
    queries: int = 16
    runs: int = 1
    estimators: tuple[str, ...] = ESTIMATORS


def reproduce_bae(out: Path, setting: BaeSetting, *, data_dir: Path | None = None) -> list[BaeRow]:
    """Measure; answers of networks, runs and contributions in `out` are reused.

    Args:
        out: Folder for all of that and the rows.
        setting: How much is measured.
        data_dir: Folder with Fashion-MNIST's files.
    """
    out.mkdir(parents=True, exist_ok=True)
    train, tests = _fashion(data_dir)
    images = np.random.RandomState(0).permutation(TESTS)[: setting.queries].tolist()
    halves = random_subsets(setting.subsets, TRAIN, 0.5, 0)
    answers = [
        answers_on_subsets(
            TRAINING,
            train,
            halves,
            [10_000 * (seed + 1) + i for i in range(len(halves))],
            tests,
            out / f"halves-seed-{seed}",
        )[:, images].T
        for seed in range(setting.seeds)
    ]
    truth = np.mean(answers, axis=0)
    rows = []
    if setting.seeds > 1:
        first, second = (np.mean(answers[part::2], axis=0) for part in (0, 1))
        rows.append(_row(setting, "ceiling", 1, (lds(first, second), *lds_interval(first, second))))
    for estimator in setting.estimators:
        contributions = [_contributions(estimator, train, tests, images, seed, out) for seed in range(setting.runs)]
        for runs in sorted({1, setting.runs}):
            rows.append(_row(setting, estimator, runs, score(np.mean(contributions[:runs], axis=0), halves, truth)))
    replace_rows(out / ROWS_FILE, rows, BaeRow.key)
    return rows


def _fashion(data_dir: Path | None) -> tuple[TensorDataset, TensorDataset]:
    """The first training and test images, normalised by mean and standard deviation, flat."""
    fashion = published("fashion", data_dir=data_dir)

    def part(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> TensorDataset:
        flat = torch.tensor(images[:, 0, 2:-2, 2:-2].reshape(-1, 784), dtype=torch.float32) / 255
        return TensorDataset((flat - fashion.mean[0]) / fashion.std[0], torch.tensor(labels))

    train = part(fashion.train_images[:TRAIN], fashion.train_labels[:TRAIN])
    return train, part(fashion.test_images[:TESTS], fashion.test_labels[:TESTS])


def _contributions(
    estimator: str, train: TensorDataset, tests: TensorDataset, images: list[int], seed: int, out: Path
) -> Array:
    """Contributions (queries, samples) of one run."""
    queries = sample_margins(tests, images)

    def measure() -> Array:
        recorded = partial(TRAINING.recorded, train, seed, out / f"run-{seed}")
        return estimate(estimator, recorded, queries, seed=seed, damping=DAMPING, iterations=ITERATIONS)

    return saved_array(out / "contributions" / f"{estimator} {seed} {len(images)}.npy", measure)


def _row(setting: BaeSetting, estimator: str, runs: int, score: tuple[float, float, float]) -> BaeRow:
    value, low, high = score
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


def bae(
    out: Annotated[Path, typer.Option(help="Folder for networks, runs and rows.")] = Path("runs/bae"),
    estimators: Annotated[str, typer.Option(help="Which estimators, with commas between.")] = ",".join(ESTIMATORS),
    subsets: Annotated[int, typer.Option(min=3, help="Random halves.")] = 30,
    seeds: Annotated[int, typer.Option(min=1, help="Networks trained on each half.")] = 2,
    queries: Annotated[int, typer.Option(min=1, help="Test images.")] = 16,
    runs: Annotated[int, typer.Option(min=1, help="Runs to average contributions over.")] = 1,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Random halves on the Fashion-MNIST setting of SOURCE.

    A network takes about seven seconds of processor time, ten exact queries about three minutes a run. If interrupted,
    the same command resumes; answers of networks, runs and contributions are saved.

    Example: python -m studies bae --subsets 10 --seeds 2 --queries 4 --estimators hessian
    """
    names = named_among(estimators, ESTIMATORS, "--estimators")
    setting = BaeSetting(subsets=subsets, seeds=seeds, queries=queries, runs=runs, estimators=tuple(names))
    with quiet(silent):
        rows = reproduce_bae(out, setting, data_dir=data_dir)
    columns(
        f"{queries} test margins; {subsets} halves, margins averaged over {seeds} seeds",
        ("estimator", "runs", "LDS", "90 %"),
        [(row.estimator, str(row.runs), number(row.lds), f"{number(row.low)} to {number(row.high)}") for row in rows],
        left=["estimator"],
    )
    write_json(json, {f"{row.estimator} {row.runs} lds": row.lds for row in rows})
