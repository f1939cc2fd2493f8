"""Removals predicted on one run and not on another, and the error of dropping the curvature along the first."""

from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hydragrad as hg
from hydragrad.datasets import load
from hydragrad.figures import error_over_time, predicted_against_actual
from studies.networks import NETWORKS

PREDICTED, NOT_PREDICTED = "mlp", "lenet5"
GROUPS, SIZE = 30, 100


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of each sample."""
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels, reduction="none")


def trained(name: str, out: Path) -> tuple[hg.Recording, hg.Scores]:
    """A network of the study of trust, trained as there, and its exact contributions."""
    splits = load("digits", train_size=1000)
    torch.manual_seed(0)
    model = NETWORKS[name](splits.train.tensors[0].shape[1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    run = hg.train(model, loss, splits.train, optimizer, epochs=10, batch_size=64, out=out, resume=True)
    return run, hg.attribute(run, hg.mean_loss(splits.test, "test loss"), curvature="hessian")


def make(pictures: Path, runs: Path) -> list[Path]:
    """Train, really retrain without groups, draw."""
    made = []
    for name, file in ((PREDICTED, "predicted.png"), (NOT_PREDICTED, "not-predicted.png")):
        run, scores = trained(name, runs / name)
        check = hg.verify(run, scores, groups=GROUPS, size=SIZE, extremes=False).checks[0]
        print(f"{name}: {check.sentence}")
        predicted_against_actual(check.predicted, check.actual, unit="test loss").savefig(pictures / file, dpi=160)
        made.append(pictures / file)
        if name == PREDICTED:
            error = hg.approximation_error(run, samples=8, query=hg.mean_loss(load("digits").test), points=20)
            print(error.sentence)
            error_over_time([asdict(point) for point in error.points]).savefig(pictures / "error.png", dpi=160)
            made.append(pictures / "error.png")
    return made
