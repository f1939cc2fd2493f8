"""Does the number predict what happens? Five kinds of network, one fixed run each, really retrained.

For every model: one recorded run, removals of random groups really retrained (weight 0, all else equal), the LDS of
every curvature over the mean test loss and over single test samples, the slope of actual on predicted change, and what
`smoothness` says of the run. The thresholds in `trust/smoothness.py` come from here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydragrad.attribution import attribute
from hydragrad.datasets import load
from hydragrad.models import LeNet5
from hydragrad.replay import Recording
from hydragrad.scores import Method, mean_loss, sample_losses
from hydragrad.studies.rows import kept_rows, replace_rows
from hydragrad.training import mean_loss_and_accuracy, train
from hydragrad.trust import smoothness, verify

ROWS_FILE = "trust.jsonl"
SINGLE = 10
METHODS = (
    Method.of("none"),
    Method.of("hessian"),
    Method.of("ggn"),
    Method.of("ggn", damping=0.1),
    Method.of("hessian", replays=4),
    Method.of("ggn", replays=4),
)


def _logistic(channels: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 1024, 10))


def _mlp(channels: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 1024, 64), nn.ReLU(), nn.Linear(64, 10))


def _smooth_lenet(channels: int) -> nn.Module:
    """LeNet-5 with GELU and average pooling."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 6, 5), nn.GELU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.GELU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(16, 120, 5), nn.GELU(), nn.Flatten()),
        *(nn.Linear(120, 84), nn.GELU(), nn.Linear(84, 10)),
    )


def _batch_norm(channels: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(channels, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10)),
    )


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "logistic": _logistic,
    "mlp": _mlp,
    "lenet5": lambda channels: LeNet5(channels=channels, classes=10),
    "lenet5-smooth": _smooth_lenet,
    "batch-norm": _batch_norm,
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One estimator on one run; cosines and growth as `smoothness` measured them."""

    network: str
    estimator: str
    test_accuracy: float
    groups: int
    size: int
    lds_mean_loss: float | None
    low: float | None
    high: float | None
    lds_single: float | None
    slope: float | None
    cosine: float
    rounding_growth: float


def reproduce_trust(
    out: Path,
    *,
    data: str = "digits",
    data_dir: Path | None = None,
    networks: Sequence[str] = tuple(NETWORKS),
    train_size: int = 1000,
    epochs: int = 10,
    groups: int = 30,
    share: float = 0.1,
    workers: int = 1,
) -> list[Row]:
    """Measure; runs, retrainings and finished networks in `out` are kept.

    Args:
        out: Folder for the runs and the rows.
        data: Name of the data set.
        data_dir: Where its files lie.
        networks: Some of `NETWORKS`.
        train_size: Training samples.
        epochs: Passes over them.
        groups: Random groups that are left out.
        share: Of the samples, in a group.
        workers: Processes that retrain at the same time.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = kept_rows(Row, out / ROWS_FILE)
    splits = load(data, data_dir=data_dir, train_size=train_size)
    for name in networks:
        if sum(row.network == name for row in rows) == len(METHODS):
            continue
        rows = [row for row in rows if row.network != name]
        torch.manual_seed(0)
        model = NETWORKS[name](splits.train.tensors[0].shape[1])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        run = train(model, _loss, splits.train, optimizer, epochs=epochs, batch_size=64, out=out / name, resume=True)
        rows += _measured(name, run, splits.test, groups, share, workers)
        replace_rows(out / ROWS_FILE, rows, lambda row: row.network)
    return [row for row in rows if row.network in networks]


def _measured(name: str, run: Recording, test: Any, groups: int, share: float, workers: int) -> list[Row]:
    accuracy = mean_loss_and_accuracy(run.trained_model(), _loss, test)[1]
    assert accuracy is not None
    smooth = smoothness(run, query=mean_loss(test), workers=workers)
    queries = [mean_loss(test, name="test loss"), sample_losses(test, range(SINGLE))]
    rows = []
    for method in METHODS:
        mean, single = (
            verify(
                run,
                attribute(run, query, **method.options, workers=workers),
                groups=groups,
                size=share,
                extremes=False,
                workers=workers,
            ).checks[0]
            for query in queries
        )
        assert mean.size is not None, "random groups have one size"
        rows.append(
            Row(
                network=name,
                estimator=method.in_words,
                test_accuracy=accuracy,
                groups=groups,
                size=mean.size,
                lds_mean_loss=mean.lds,
                low=mean.lds_interval[0],
                high=mean.lds_interval[1],
                lds_single=single.lds,
                slope=mean.slope,
                cosine=smooth.probes[-1].cosine,
                rounding_growth=smooth.rounding_growth,
            )
        )
    return rows


def _loss(model: nn.Module, batch: Any) -> Tensor:
    losses: Tensor = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
    return losses
