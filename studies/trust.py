"""Does the number predict what happens? Five kinds of network, one fixed run each, really retrained.

For every model: one recorded run, removals of random groups really retrained (weight 0, all else equal), the LDS of
every curvature over the mean test loss and over single test samples, the slope of actual on predicted change, and what
`smoothness` measures of the run. The thresholds in `trust/smoothness.py` come from here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn

from hydragrad.attribution import attribute
from hydragrad.cli.console import columns, number, percent, write_json
from hydragrad.cli.options import (
    DataDir,
    ExecutorName,
    Json,
    Part,
    Quiet,
    RayAddress,
    Workers,
    execution_from,
    named_among,
    require_one_of,
    slice_done,
)
from hydragrad.datasets import DATASETS, load
from hydragrad.errors import Unfinished
from hydragrad.execution import HERE, Execution
from hydragrad.execution.claims import exclusive
from hydragrad.progress import quiet
from hydragrad.replay import Recording
from hydragrad.scores import Method, mean_loss, sample_losses
from hydragrad.training import mean_loss_and_accuracy, train
from hydragrad.trust import smoothness, verify
from studies.networks import NETWORKS
from studies.rows import replace_rows, saved_rows

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
    execution: Execution = HERE,
) -> list[Row]:
    """Measure; runs, retrainings and finished networks in `out` are reused.

    Args:
        out: Folder for the runs and the rows.
        data: Name of the data set.
        data_dir: Folder with its files.
        networks: Some of `NETWORKS`.
        train_size: Training samples.
        epochs: Passes over them.
        groups: Random groups that are left out.
        share: Of the samples, in a group.
        execution: Where attributions and retrainings run.

    Raises:
        Unfinished: A slice, after its share of every network.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = saved_rows(Row, out / ROWS_FILE)
    splits = load(data, data_dir=data_dir, train_size=train_size)
    missing: Unfinished | None = None
    for name in networks:
        if sum(row.network == name for row in rows) == len(METHODS):
            continue
        rows = [row for row in rows if row.network != name]
        torch.manual_seed(0)
        model = NETWORKS[name](splits.train.tensors[0].shape[1])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        with exclusive(out, name):
            run = train(
                model, _loss, splits.train, optimizer, epochs=epochs, batch_size=64, out=out / name, resume=True
            )
        try:
            rows += _measured(name, run, splits.test, groups, share, execution)
        except Unfinished as error:
            missing = error
            continue
        replace_rows(out / ROWS_FILE, rows, lambda row: row.network)
    if missing is not None:
        raise missing
    return [row for row in rows if row.network in networks]


def _measured(name: str, run: Recording, test: Any, groups: int, share: float, execution: Execution) -> list[Row]:
    accuracy = mean_loss_and_accuracy(run.trained_model(), _loss, test)[1]
    assert accuracy is not None
    smooth = smoothness(run, query=mean_loss(test), **execution.keywords)
    queries = [mean_loss(test, name="test loss"), sample_losses(test, range(SINGLE))]
    rows = []
    for method in METHODS:
        mean, single = (
            verify(
                run,
                attribute(run, query, **method.options, **execution.keywords),
                groups=groups,
                size=share,
                extremes=False,
                **execution.keywords,
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


def trust(
    out: Annotated[Path, typer.Option(help="Folder for runs and rows.")] = Path("runs/trust"),
    data: Annotated[str, typer.Option(help=f"Data set: {', '.join(DATASETS)}.")] = "digits",
    networks: Annotated[str, typer.Option(help="Which networks, with commas between.")] = ",".join(NETWORKS),
    train_size: Annotated[int, typer.Option(min=10, help="Training samples.")] = 1000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over them.")] = 10,
    groups: Annotated[int, typer.Option(min=3, help="Random groups that are left out.")] = 30,
    share: Annotated[float, typer.Option(help="Share of the samples in a group.")] = 0.1,
    executor: ExecutorName = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    part: Part = None,
    data_dir: DataDir = None,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Predicted against actual removals on five kinds of network.

    Also measures how smooth each run is. If interrupted, the same command resumes; retrainings are saved. Slices
    (--part) are called again until one prints the tables: the stages of a network depend on each other.

    Example: python -m studies trust --networks mlp,lenet5 --workers 2
    """
    names = named_among(networks, NETWORKS, "--networks")
    require_one_of(data, DATASETS, "--data")
    execution = execution_from(executor, ray_address, workers, part)
    with quiet(silent), slice_done():
        rows = reproduce_trust(
            out,
            data=data,
            data_dir=data_dir,
            networks=names,
            train_size=train_size,
            epochs=epochs,
            groups=groups,
            share=share,
            execution=execution,
        )
    runs = {row.network: row for row in rows}
    columns(
        "the runs",
        ("network", "test accuracy", "cosine of smoothness", "growth of rounding"),
        [(n, percent(row.test_accuracy), number(row.cosine), number(row.rounding_growth)) for n, row in runs.items()],
        left=["network"],
    )
    columns(
        f"{groups} random groups of {share:.0%} left out".replace("%", " %"),
        ("network", "estimator", "LDS mean loss", "90 %", "LDS single", "slope"),
        [
            (
                row.network,
                row.estimator,
                number(row.lds_mean_loss),
                f"{number(row.low)} to {number(row.high)}",
                number(row.lds_single),
                number(row.slope),
            )
            for row in rows
        ],
        left=["network", "estimator"],
    )
    write_json(json, {f"{row.network} {row.estimator} lds": row.lds_mean_loss for row in rows})
