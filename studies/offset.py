"""Why predicted and actual changes differ by an offset, and what predicts it.

Predictions are linear in the sample weights. What random removals of one size have in common beyond that is an offset:
training with fewer samples. Two ways to predict it are tried, each by retrainings other than those that are
predicted. *common*: the retraining in which all weights are at 1 - s takes the place of the predictions' own mean, s
times the sum of all contributions. *pairs*: of other random groups, half the sum of the changes with weight 0 and with
weight 2, in which everything linear cancels, is added to all predictions. A removal that leaves the mean over the rest
(*renormalised*) has predictions that add up to 0; without a share s of a batch the rest weighs 1/(1 - s) as much,
which its derivatives do not know.

Networks of the study of trust on 1,000 digits, SGD .01/.9; exact contributions to the mean test loss; random groups.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from hydragrad.attribution import attribute
from hydragrad.cli.console import columns, number, write_json
from hydragrad.cli.options import Json, Quiet, named_among
from hydragrad.datasets import load
from hydragrad.experiments.recipes import cross_entropy
from hydragrad.figures import agreement
from hydragrad.progress import quiet
from hydragrad.replay import Recording
from hydragrad.scores import Query, Removal, mean_loss
from hydragrad.training import train
from hydragrad.trust import bank, counterfactual
from hydragrad.trust.fit import scale_of
from studies.networks import NETWORKS

Array = NDArray[np.float64]
REMOVALS: tuple[Removal, ...] = ("weight", "renormalised")
PAIRS = 10
"""Other groups, each retrained with weight 0 and with weight 2."""


@dataclass(frozen=True, kw_only=True)
class Offset:
    """Predicted and actual changes of one network: their means, and how the one has to be scaled to be the other."""

    network: str
    removal: str
    predicted: float
    actual: float
    spearman: float
    slope: float
    scale: float


def measured(network: str, out: Path, *, epochs: int, groups: int, share: float) -> Iterator[Offset]:
    """Yield both removals of a network, plain and with what predicts the offset."""
    run, query = _trained(network, out, epochs)
    for removal in REMOVALS:
        contributions = attribute(run, query, curvature="hessian", removal=removal).values[0].numpy()
        truth = bank(run, query, subsets=groups, size=share, removal=removal)
        actual = truth.changes(truth.values)[0, 0].numpy()
        predicted = truth.removed.numpy() @ contributions
        yield _row(network, removal, predicted, actual)
        if removal == "weight":
            everything = range(len(contributions))
            common = float(counterfactual(run, [everything], query, weight=1 - share).values)
            yield _row(network, "weight, common", predicted + common - share * contributions.sum(), actual)
        else:
            predicted = predicted / (1 - share)
            yield _row(network, "renormalised, 1/(1 - s)", predicted, actual)
        yield _row(network, f"{removal}, pairs", predicted + _second_order(run, query, removal, share), actual)


def _second_order(run: Recording, query: Query, removal: Removal, share: float) -> float:
    """What removals of other groups have in common beyond what is linear in the weights."""
    others = [
        bank(run, query, subsets=PAIRS, size=share, seed=1, removal=removal, weight=weight) for weight in (0.0, 2.0)
    ]
    return float(sum(other.changes(other.values).mean() for other in others)) / 2


def _row(network: str, removal: str, predicted: Array, actual: Array) -> Offset:
    fit = agreement(predicted, actual)
    return Offset(
        network=network,
        removal=removal,
        predicted=float(predicted.mean()),
        actual=float(actual.mean()),
        spearman=fit.spearman,
        slope=fit.slope,
        scale=scale_of(predicted, actual),
    )


def _trained(network: str, out: Path, epochs: int) -> tuple[Recording, Query]:
    splits = load("digits", train_size=1000)
    torch.manual_seed(0)
    model = NETWORKS[network](splits.train.tensors[0].shape[1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    folder = out / network
    run = train(model, cross_entropy, splits.train, optimizer, out=folder, epochs=epochs, batch_size=50, resume=True)
    return run, mean_loss(splits.test, "test loss")


def offset(
    out: Annotated[Path, typer.Option(help="Folder for runs and retrainings.")] = Path("runs/offset"),
    networks: Annotated[str, typer.Option(help="Which networks, with commas between.")] = "logistic,mlp,lenet5-smooth",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over 1,000 digits.")] = 10,
    groups: Annotated[int, typer.Option(min=3, help="Random groups that are left out.")] = 40,
    share: Annotated[float, typer.Option(help="Share of the samples in a group.")] = 0.1,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Predicted and actual removals: their offset, and what predicts it.

    Some minutes; retrainings are saved.

    Example: python -m studies offset --networks mlp --groups 10
    """
    rows: list[Offset] = []
    with quiet(silent):
        for network in named_among(networks, NETWORKS, "--networks"):
            rows += measured(network, out, epochs=epochs, groups=groups, share=share)
    columns(
        f"mean test loss, {groups} random groups of {share:.0%} left out".replace("%", " %"),
        ("network", "removal", "mean predicted", "mean actual", "Spearman", "slope", "scale"),
        [
            (
                row.network,
                row.removal,
                *map(number, (row.predicted, row.actual, row.spearman, row.slope, row.scale)),
            )
            for row in rows
        ],
        left=["network", "removal"],
    )
    figures = {f"{row.network} {row.removal}": asdict(row) for row in rows}
    measures = ("predicted", "actual", "spearman", "slope", "scale")
    write_json(json, {f"{name} {measure}": row[measure] for name, row in figures.items() for measure in measures})
