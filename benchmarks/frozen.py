"""The accuracy of batch_statistics="frozen": rows of a BatchNorm network with its batches' statistics as constants.

A convolutional network with two BatchNorms on digits; contributions of all training samples to the losses of single
test samples, against rows that differentiate through the statistics. Spearman correlation and relative L2 error
per query, averaged, and the share of the ten most harmful samples that agree, for several seeds.

    python -m benchmarks.frozen [--train-size 500] [--epochs 5] [--queries 50] [--seeds 3]
"""

import argparse
import tempfile
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

import hydragrad as hg
from benchmarks.formats import lowest_agreement, spearman
from benchmarks.tracking import loss
from hydragrad.datasets import load
from hydragrad.scores import Query


def network() -> nn.Module:
    """Two convolutions with BatchNorm and a linear layer: 3,158 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 12, 5, stride=2), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 10)),
    )


def answers(run: hg.Recording, query: Query, statistics: str) -> Tensor:
    """Contributions (queries, samples) from the rows of all training samples."""
    store = hg.hypergradients(run, batch_statistics=statistics)  # type: ignore[arg-type]
    return cast(hg.Scores, store.contributions(query)).values


def main() -> None:
    """Read the size, train, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, size in (("train-size", 500), ("epochs", 5), ("queries", 50), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=size)
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits = load("digits", train_size=options.train_size)
    query = hg.sample_losses(splits.test, range(options.queries))
    print(f"{'seed':>4} {'accuracy':>9} {'Spearman':>9} {'rel. error':>10} {'same top 10':>11}")
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=2e-5)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            run = hg.train(
                model, loss, splits.train, optimizer, epochs=options.epochs, batch_size=64, out=out, seed=seed
            )
            exact, frozen = (answers(run, query, statistics) for statistics in ("exact", "frozen"))
        images, labels = splits.test.tensors
        accuracy = float((model.eval()(images).argmax(1) == labels).double().mean())
        error = ((frozen - exact).norm(dim=1) / exact.norm(dim=1)).mean()
        agreement = f"{spearman(frozen, exact):9.3f} {error:10.3f} {lowest_agreement(frozen, exact):11.2f}"
        print(f"{seed:4} {accuracy:9.3f} {agreement}")


if __name__ == "__main__":
    main()
