"""`python -m benchmarks.solves`: iterations of conjugate gradients by preconditioner, and what self-influence finds.

Three networks, each trained for a few epochs by SGD with a fifth of its labels (of images) wrong: an MLP and LeNet-5 on
MNIST, a small GPT with tied embeddings on names. Five right-hand sides: the mean loss of held-out samples, and four
single ones. The counts do not depend on the machine's speed; a product is one with the Gauss-Newton matrix and a
vector. Self-influence: how well it ranks the wrong labels, and how near the approximations are to exact solves.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

import hydragrad as hg
from hydragrad.attribution.conjugate_gradients import conjugate_gradients
from hydragrad.attribution.gauss_newton_matrix import DampedGaussNewton
from hydragrad.attribution.influence import query_gradients
from hydragrad.attribution.self_influence import SelfMethod
from hydragrad.datasets import load, load_text
from hydragrad.datasets.sequences import PADDING
from hydragrad.models import GPT, LeNet5

TOLERANCES = (1e-2, 1e-4)
MOST = 500


@dataclass(frozen=True)
class Setup:
    """A trained network: model, loss, training set, held-out data, and which labels are wrong (None: none)."""

    model: nn.Module
    loss: Callable[[nn.Module, Any], Tensor]
    train_set: Dataset[Any]
    held_out: Dataset[Any]
    wrong: Tensor | None


def of_labels(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy of images."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def of_tokens(model: nn.Module, batch: Any) -> Tensor:
    """Mean cross-entropy of the tokens of every text."""
    tokens, targets = batch
    losses = F.cross_entropy(model(tokens).transpose(1, 2), targets, reduction="none", ignore_index=PADDING)
    means: Tensor = losses.sum(1) / (targets != PADDING).sum(1)
    return means


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def images(build: Callable[[], nn.Module], size: int, epochs: int) -> Setup:
    splits = load("mnist", train_size=size)
    x, y = splits.train.tensors
    wrong = torch.arange(size) % 5 == 0
    y = torch.where(wrong, (y + 3) % 10, y)
    train_set = TensorDataset(x, y)
    torch.manual_seed(0)
    setup = Setup(build(), of_labels, train_set, Subset(splits.validation, range(300)), wrong)
    train(setup, epochs, rate=0.02)
    return setup


def texts(size: int, epochs: int) -> Setup:
    splits = load_text("names", train_size=size)
    torch.manual_seed(0)
    model = GPT(vocabulary=len(splits.tokenizer), block_size=splits.length, layers=2, heads=2, width=32)
    setup = Setup(model, of_tokens, splits.train, Subset(splits.validation, range(300)), None)
    train(setup, epochs, rate=0.1)
    return setup


def train(setup: Setup, epochs: int, rate: float) -> None:
    optimizer = torch.optim.SGD(setup.model.parameters(), lr=rate, momentum=0.9)
    count = len(setup.train_set)  # type: ignore[arg-type]
    for _ in range(epochs):
        for rows in torch.randperm(count).split(32):
            optimizer.zero_grad()
            batch = torch.utils.data.default_collate([setup.train_set[int(row)] for row in rows])
            setup.loss(setup.model, batch).mean().backward()
            optimizer.step()


def iterations(name: str, setup: Setup, shares: Sequence[float]) -> None:
    """Print the table of iterations, for dampings that are such shares of the largest eigenvalue."""
    checkpoints = opened(setup)
    queries = [hg.mean_loss(setup.held_out), hg.sample_losses(setup.held_out, range(4))]
    gradients = torch.cat([query_gradients(checkpoints, checkpoints.layout, checkpoints.final, q) for q in queries])
    matrices = {
        kind: DampedGaussNewton(checkpoints, checkpoints.layout, checkpoints.final, None, preconditioner=kind)
        for kind in ("none", "ekfac", "nystrom")
    }
    largest = 100 * matrices["none"].damping
    for share in shares:
        for kind, matrix in matrices.items():
            matrix.damping = share * largest
            about = matrix.approximation
            helped = None if about is None else partial(about.inverse, damping=matrix.damping)
            counts = []
            for tolerance in TOLERANCES:
                solution = conjugate_gradients(
                    matrix.times, gradients, iterations=MOST, tolerance=tolerance, precondition=helped
                )
                counts.append(f"{solution.products}" if solution.residual <= tolerance else f"over {MOST}")
            print(f"| {name} | {checkpoints.layout.size:,} | {share:g} | {kind} | {' | '.join(counts)} |", flush=True)


METHODS: tuple[SelfMethod, ...] = ("nystrom", "ekfac", "tracin")


def self_influences(name: str, setup: Setup) -> None:
    """Print how self-influence finds wrong labels, and how near it is to exact solves."""
    for method in METHODS:
        rates = 0.02 if method == "tracin" else None
        scores = hg.self_influence(opened(setup), method=method, rates=rates)
        area = "" if setup.wrong is None else f"{roc_auc_score(setup.wrong, scores.values[0]):.3f}"
        print(f"| {name} | {method} | {area} | {scores.evidence.notes[0].text} |", flush=True)


def opened(setup: Setup) -> hg.Checkpoints:
    return hg.Checkpoints(setup.model.state_dict(), setup.model, setup.loss, setup.train_set)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.solves", description=__doc__)
    parser.add_argument("--size", type=int, default=300, help="training samples")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--only", default="", help="only networks whose name contains this text")
    parser.add_argument("--shares", default="0.01,0.001", help="dampings, as shares of the largest eigenvalue")
    options = parser.parse_args()
    networks: dict[str, Callable[[], Setup]] = {
        "MLP": lambda: images(mlp, options.size, options.epochs),
        "LeNet-5": lambda: images(LeNet5, options.size, options.epochs),
        "GPT": lambda: texts(options.size, options.epochs),
    }
    for name, build in networks.items():
        if options.only in name:
            setup = build()
            self_influences(name, setup)
            iterations(name, setup, [float(share) for share in options.shares.split(",")])
