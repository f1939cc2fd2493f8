"""Subsets of half of the data and single removals, on dattri's MNIST settings.

The first 5,000 training and the first 500 test images of MNIST; logistic regression, and an MLP 784-128-64-10 with
dropout 0.1. Asked: the loss of single test images, eval mode. LDS over networks that were each trained on a random half
with a seed of its own; LOO (Pearson) over single removals with one seed, unshuffled as in their code. The seed noise of
the truth bounds the LDS from above: *ceiling* is the truth of the same halves with other seeds, taken as a prediction.

Source: Deng et al., "dattri: A Library for Efficient Data Attribution", NeurIPS 2024 (data sets and benchmarks), and
their public code: number and draw of the subsets, epochs, rates and batches (32 for the logistic regression, from the
newest version). Ours: orders and initialisations from other seeds; a random part of the 500 test images where exact
contributions to all of them are too expensive; images to tune on are others (500 to 999).
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hydragrad.datasets import published
from hydragrad.scores import sample_losses
from hydragrad.studies.estimates import ESTIMATORS, estimate
from hydragrad.studies.recipes import cross_entropy
from hydragrad.studies.rows import kept_array, replace_rows
from hydragrad.studies.subsets import Training, answers_on_subsets, random_subsets, score
from hydragrad.trust.lds import lds, lds_interval

ROWS_FILE = "dattri.jsonl"
TRAIN, TESTS, ASKED_FROM = 5000, 1000, 500
Array = NDArray[np.float64]


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def _mlp() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.1)),
        *(nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.1)),
        nn.Linear(64, 10),
    )


TRAININGS: dict[str, Training] = {
    "logistic": Training(
        build=lambda: nn.Sequential(nn.Linear(784, 10)),
        loss=cross_entropy,
        measure=_losses,
        epochs=20,
        batch_size=32,
        lr=0.01,
        at_once=50,
    ),
    "mlp": Training(build=_mlp, loss=cross_entropy, measure=_losses, epochs=50, batch_size=64, lr=0.01, momentum=0.9),
}
INFLUENCE = {"logistic": (0.01, 50), "mlp": (0.01, 10)}
"""Damping and iterations of conjugate gradients; the best damping of dattri's grid for the MLP is not published."""


@dataclass(frozen=True, kw_only=True)
class DattriRow:
    """One estimator, averaged over `runs` runs. `low` and `high` bound 90 % of resampled subsets, or removals."""

    model: str
    estimator: str
    runs: int
    metric: str
    value: float
    low: float
    high: float
    queries: int
    subsets: int

    def key(self) -> tuple[object, ...]:
        """What is measured once."""
        return self.model, self.estimator, self.runs, self.metric, self.queries, self.subsets


@dataclass(frozen=True, kw_only=True)
class DattriSetting:
    """How much is measured.

    Attributes:
        model: One of `TRAININGS`.
        subsets: Networks trained on halves.
        ceilings: For how many of these halves a second network is trained, with another seed.
        removals: Single removals (0: no LOO).
        queries: Test images asked about, drawn from the first 500.
        runs: Runs to average contributions over.
        estimators: Some of `ESTIMATORS`.
        tuning: Ask about images 500 to 999 in place of the reported ones.
    """

    model: str
    subsets: int = 100
    ceilings: int = 50
    removals: int = 100
    queries: int = 50
    runs: int = 1
    estimators: tuple[str, ...] = ESTIMATORS
    tuning: bool = False


def reproduce_dattri(out: Path, setting: DattriSetting, *, data_dir: Path | None = None) -> list[DattriRow]:
    """Measure; answers of networks, runs and contributions in `out` are kept.

    Args:
        out: Folder for all of that and the rows.
        setting: How much is measured.
        data_dir: Where MNIST lies.
    """
    out.mkdir(parents=True, exist_ok=True)
    train, tests = mnist(data_dir)
    folder = out / setting.model
    chosen = asked_images(setting.queries, tuning=setting.tuning)
    halves = random_subsets(setting.subsets, TRAIN, 0.5, 0)
    training = TRAININGS[setting.model]
    truth = answers_on_subsets(training, train, halves, range(len(halves)), tests, folder / "halves")[:, chosen].T
    rows = [_ceiling(setting, training, train, tests, halves, truth, chosen, folder)] if setting.ceilings else []
    removed: list[list[int]] = []
    if setting.removals:
        removed, change = _removals(setting, training, train, tests, chosen, folder)
    for estimator in setting.estimators:
        each = [
            _contributions(setting, training, estimator, train, tests, chosen, seed, folder)
            for seed in range(1000, 1000 + setting.runs)
        ]
        for runs in sorted({1, setting.runs}):
            mean = np.mean(each[:runs], axis=0)
            rows.append(_row(setting, estimator, runs, "LDS", score(mean, halves, truth), len(halves)))
            if setting.removals:
                predicted = mean[:, [gone[0] for gone in removed]]
                rows.append(_row(setting, estimator, runs, "LOO", _correlation(predicted, change), len(removed)))
    if not setting.tuning:
        replace_rows(out / ROWS_FILE, rows, DattriRow.key)
    return rows


def mnist(data_dir: Path | None) -> tuple[TensorDataset, TensorDataset]:
    """The first training and test images, normalised by mean and standard deviation, flat."""
    given = published("mnist", data_dir=data_dir)

    def part(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> TensorDataset:
        flat = torch.tensor(images[:, 0, 2:-2, 2:-2].reshape(-1, 784), dtype=torch.float32) / 255
        return TensorDataset((flat - given.mean[0]) / given.std[0], torch.tensor(labels))

    train = part(given.train_images[:TRAIN], given.train_labels[:TRAIN])
    return train, part(given.test_images[:TESTS], given.test_labels[:TESTS])


def asked_images(count: int, *, tuning: bool) -> list[int]:
    """A random part of the first 500 test images, more of them begin with the same; of the next 500 to tune on."""
    order = np.random.RandomState(0).permutation(ASKED_FROM)[:count]
    return [int(i) + (ASKED_FROM if tuning else 0) for i in order]


def _ceiling(
    setting: DattriSetting,
    training: Training,
    train: TensorDataset,
    tests: TensorDataset,
    halves: list[list[int]],
    truth: Array,
    chosen: list[int],
    folder: Path,
) -> DattriRow:
    some = halves[: setting.ceilings]
    again = answers_on_subsets(training, train, some, range(5000, 5000 + len(some)), tests, folder / "halves again")
    found = _spearman(again[:, chosen].T, truth[:, : len(some)])
    return _row(setting, "ceiling", 1, "LDS", found, len(some))


def _removals(
    setting: DattriSetting,
    training: Training,
    train: TensorDataset,
    tests: TensorDataset,
    chosen: list[int],
    folder: Path,
) -> tuple[list[list[int]], Array]:
    """Which samples were removed, and the change of the asked losses (queries, removals)."""
    removed = [[int(i)] for i in np.random.RandomState(1).permutation(TRAIN)[: setting.removals]]
    rest = [[i for i in range(TRAIN) if i != gone[0]] for gone in removed]
    folder = folder / "removals"
    # Among the removals all that differs is the sample, so the unremoved network only shifts every value alike.
    values = answers_on_subsets(training, train, rest, [0] * len(rest), tests, folder, shuffled=False)
    return removed, values[:, chosen].T


def _contributions(
    setting: DattriSetting,
    training: Training,
    estimator: str,
    train: TensorDataset,
    tests: TensorDataset,
    chosen: list[int],
    seed: int,
    folder: Path,
) -> Array:
    """Contributions (queries, samples) of one run; a change of the loss, so that they sum to predicted changes."""
    kind = "tuning" if setting.tuning else "asked"
    file = folder / "contributions" / f"{estimator} {seed} {kind} {len(chosen)}.npy"
    asked = sample_losses(tests, chosen)

    damping, iterations = INFLUENCE[setting.model]

    def measure() -> Array:
        recorded = partial(training.recorded, train, seed, folder / f"run-{seed}")
        return estimate(estimator, recorded, asked, seed=seed, damping=damping, iterations=iterations)

    return kept_array(file, measure)


def _row(
    setting: DattriSetting, estimator: str, runs: int, metric: str, found: tuple[float, float, float], count: int
) -> DattriRow:
    value, low, high = found
    return DattriRow(
        model=setting.model,
        estimator=estimator,
        runs=runs,
        metric=metric,
        value=value,
        low=low,
        high=high,
        queries=setting.queries,
        subsets=count,
    )


def _spearman(predicted: Array, actual: Array) -> tuple[float, float, float]:
    return lds(predicted, actual), *lds_interval(predicted, actual)


def _correlation(predicted: Array, actual: Array) -> tuple[float, float, float]:
    """Mean over queries of Pearson's correlation over removals, with a 90 % bootstrap interval over removals."""

    def mean(columns: NDArray[np.int64]) -> float:
        a, b = (values[:, columns] - values[:, columns].mean(1, keepdims=True) for values in (predicted, actual))
        scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
        return float(np.mean(np.divide((a * b).sum(1), scale, out=np.zeros_like(scale), where=scale > 0)))

    count, generator = predicted.shape[1], np.random.default_rng(0)
    resampled = [mean(columns) for columns in generator.integers(count, size=(1000, count))]
    low, high = np.percentile(resampled, [5, 95])
    return mean(np.arange(count)), float(low), float(high)
