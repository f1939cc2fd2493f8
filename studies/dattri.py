"""Subsets of half of the data and single removals, on dattri's MNIST settings.

The first 5,000 training and the first 500 test images of MNIST; logistic regression, and an MLP 784-128-64-10 with
dropout 0.1. Queries are the losses of single test images, eval mode. LDS over networks that were each trained on a
random half with a seed of its own; LOO (Pearson) over single removals with one seed, unshuffled as in their code. The
seed noise of the truth bounds the LDS from above: *ceiling* is the truth of the same halves with other seeds, taken as
a prediction.

Source: Deng et al., "dattri: A Library for Efficient Data Attribution", NeurIPS 2024 (data sets and benchmarks), and
their public code: number and draw of the subsets, epochs, rates and batches (32 for the logistic regression, from the
newest version). Ours: orders and initialisations from other seeds; a random part of the 500 test images where exact
contributions to all of them are too expensive; images to tune on are others (500 to 999).
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hydragrad.cli.console import columns, number, write_json
from hydragrad.cli.options import DataDir, Json, Quiet, named_among
from hydragrad.datasets import published
from hydragrad.experiments.recipes import cross_entropy
from hydragrad.progress import quiet
from hydragrad.scores import sample_losses
from hydragrad.trust.lds import lds, lds_interval
from studies.estimates import ESTIMATORS, estimate
from studies.rows import replace_rows, saved_array
from studies.subsets import Training, answers_on_subsets, random_subsets, score

ROWS_FILE = "dattri.jsonl"
TRAIN, TESTS, QUERIED_TESTS = 5000, 1000, 500
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
        """Return what identifies a measurement."""
        return self.model, self.estimator, self.runs, self.metric, self.queries, self.subsets


@dataclass(frozen=True, kw_only=True)
class DattriSetting:
    """How much is measured.

    Attributes:
        model: One of `TRAININGS`.
        subsets: Networks trained on halves.
        ceilings: For how many of these halves a second network is trained, with another seed.
        removals: Single removals (0: no LOO).
        queries: Test images, a random part of the first 500.
        runs: Runs to average contributions over.
        estimators: Some of `ESTIMATORS`.
        tuning: Use test images 500 to 999 instead of the reported ones.
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
    """Measure; answers of networks, runs and contributions in `out` are reused.

    Args:
        out: Folder for all of that and the rows.
        setting: How much is measured.
        data_dir: Folder with MNIST's files.
    """
    out.mkdir(parents=True, exist_ok=True)
    train, tests = mnist(data_dir)
    folder = out / setting.model
    images = queried_images(setting.queries, tuning=setting.tuning)
    halves = random_subsets(setting.subsets, TRAIN, 0.5, 0)
    training = TRAININGS[setting.model]
    truth = answers_on_subsets(training, train, halves, range(len(halves)), tests, folder / "halves")[:, images].T
    rows = [_ceiling(setting, training, train, tests, halves, truth, images, folder)] if setting.ceilings else []
    removed: list[list[int]] = []
    if setting.removals:
        removed, change = _removals(setting, training, train, tests, images, folder)
    for estimator in setting.estimators:
        contributions = [
            _contributions(setting, training, estimator, train, tests, images, seed, folder)
            for seed in range(1000, 1000 + setting.runs)
        ]
        for runs in sorted({1, setting.runs}):
            mean = np.mean(contributions[:runs], axis=0)
            rows.append(_row(setting, estimator, runs, "LDS", score(mean, halves, truth), len(halves)))
            if setting.removals:
                predicted = mean[:, [sample for (sample,) in removed]]
                rows.append(_row(setting, estimator, runs, "LOO", _correlation(predicted, change), len(removed)))
    if not setting.tuning:
        replace_rows(out / ROWS_FILE, rows, DattriRow.key)
    return rows


def mnist(data_dir: Path | None) -> tuple[TensorDataset, TensorDataset]:
    """The first training and test images, normalised by mean and standard deviation, flat."""
    digits = published("mnist", data_dir=data_dir)

    def part(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> TensorDataset:
        flat = torch.tensor(images[:, 0, 2:-2, 2:-2].reshape(-1, 784), dtype=torch.float32) / 255
        return TensorDataset((flat - digits.mean[0]) / digits.std[0], torch.tensor(labels))

    train = part(digits.train_images[:TRAIN], digits.train_labels[:TRAIN])
    return train, part(digits.test_images[:TESTS], digits.test_labels[:TESTS])


def queried_images(count: int, *, tuning: bool) -> list[int]:
    """Return random ones of the first 500 test images, or of the next 500 to tune on; more extend fewer."""
    order = np.random.RandomState(0).permutation(QUERIED_TESTS)[:count]
    return [int(i) + (QUERIED_TESTS if tuning else 0) for i in order]


def _ceiling(
    setting: DattriSetting,
    training: Training,
    train: TensorDataset,
    tests: TensorDataset,
    halves: list[list[int]],
    truth: Array,
    images: list[int],
    folder: Path,
) -> DattriRow:
    some = halves[: setting.ceilings]
    again = answers_on_subsets(training, train, some, range(5000, 5000 + len(some)), tests, folder / "halves again")
    ceiling = _spearman(again[:, images].T, truth[:, : len(some)])
    return _row(setting, "ceiling", 1, "LDS", ceiling, len(some))


def _removals(
    setting: DattriSetting,
    training: Training,
    train: TensorDataset,
    tests: TensorDataset,
    images: list[int],
    folder: Path,
) -> tuple[list[list[int]], Array]:
    """Which samples were removed, and the change of the queried losses (queries, removals)."""
    removed = [[int(i)] for i in np.random.RandomState(1).permutation(TRAIN)[: setting.removals]]
    rest = [[i for i in range(TRAIN) if i != gone[0]] for gone in removed]
    folder = folder / "removals"
    # Among the removals all that differs is the sample, so the unremoved network only shifts every value alike.
    values = answers_on_subsets(training, train, rest, [0] * len(rest), tests, folder, shuffled=False)
    return removed, values[:, images].T


def _contributions(
    setting: DattriSetting,
    training: Training,
    estimator: str,
    train: TensorDataset,
    tests: TensorDataset,
    images: list[int],
    seed: int,
    folder: Path,
) -> Array:
    """Contributions (queries, samples) of one run; a change of the loss, so that they sum to predicted changes."""
    kind = "tuning" if setting.tuning else "asked"
    file = folder / "contributions" / f"{estimator} {seed} {kind} {len(images)}.npy"
    queries = sample_losses(tests, images)
    damping, iterations = INFLUENCE[setting.model]

    def measure() -> Array:
        recorded = partial(training.recorded, train, seed, folder / f"run-{seed}")
        return estimate(estimator, recorded, queries, seed=seed, damping=damping, iterations=iterations)

    return saved_array(file, measure)


def _row(
    setting: DattriSetting, estimator: str, runs: int, metric: str, correlation: tuple[float, float, float], count: int
) -> DattriRow:
    value, low, high = correlation
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


def dattri(
    out: Annotated[Path, typer.Option(help="Folder for networks, runs and rows.")] = Path("runs/dattri"),
    models: Annotated[str, typer.Option(help="Which models, with commas between.")] = ",".join(TRAININGS),
    estimators: Annotated[str, typer.Option(help="Which estimators, with commas between.")] = ",".join(ESTIMATORS),
    subsets: Annotated[int, typer.Option(min=3, help="Networks trained on random halves.")] = 100,
    ceilings: Annotated[int, typer.Option(min=0, help="Of these halves, trained again with another seed.")] = 50,
    removals: Annotated[int, typer.Option(min=0, help="Single samples removed (0: no LOO).")] = 100,
    queries: Annotated[int, typer.Option(min=1, max=500, help="Test images.")] = 50,
    runs: Annotated[int, typer.Option(min=1, help="Runs to average contributions over.")] = 1,
    tuning: Annotated[bool, typer.Option("--tuning", help="Use other test images; nothing is reported.")] = False,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Random halves and single removals on dattri's MNIST settings.

    Fifty exact queries of the MLP take about ten minutes of processor time a run, a hundred networks about five.
    If interrupted, the same command resumes; answers of networks, runs and contributions are saved.

    Example: python -m studies dattri --models logistic --estimators hessian --queries 10
    """
    estimator_names = tuple(named_among(estimators, ESTIMATORS, "--estimators"))
    rows = []
    with quiet(silent):
        for model in named_among(models, TRAININGS, "--models"):
            setting = DattriSetting(
                model=model,
                subsets=subsets,
                ceilings=ceilings,
                removals=removals,
                queries=queries,
                runs=runs,
                estimators=estimator_names,
                tuning=tuning,
            )
            rows += reproduce_dattri(out, setting, data_dir=data_dir)
    columns(
        f"{queries} test losses; correlation and 90 % interval",
        ("model", "estimator", "runs", "metric", "correlation", "90 %", "of"),
        [
            (
                row.model,
                row.estimator,
                str(row.runs),
                row.metric,
                number(row.value),
                f"{number(row.low)} to {number(row.high)}",
                str(row.subsets),
            )
            for row in rows
        ],
        left=["model", "estimator", "metric"],
    )
    write_json(json, {f"{row.model} {row.estimator} {row.runs} {row.metric}": row.value for row in rows})
