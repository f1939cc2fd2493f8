"""What smaller rows give up: contributions from bfloat16 and projected rows against whole float32 rows.

LeNet-5 on the first samples of MNIST; contributions of all training samples to the losses of single test samples.
Spearman correlation and relative L2 error a query, averaged, and how many of the ten most harmful samples are kept.

    python -m benchmarks.formats [--train-size 5000] [--epochs 3] [--queries 100]
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

import hydragrad as hg
from benchmarks.tracking import loss
from hydragrad.datasets import load
from hydragrad.models import LeNet5
from hydragrad.ranks import rank_correlation


def spearman(found: Tensor, expected: Tensor) -> float:
    """Mean rank correlation over the rows."""
    return float(rank_correlation(found.numpy(), expected.numpy()).mean())


def kept(found: Tensor, expected: Tensor, k: int = 10) -> float:
    """Share of the k smallest of each row that are the same."""
    ours, theirs = (each.topk(k, largest=False).indices for each in (found, expected))
    return sum(len(set(a) & set(b)) / k for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)) / len(found)


def main() -> None:
    """Read the size and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-size", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--queries", type=int, default=100)
    given = parser.parse_args()
    run(train_size=given.train_size, epochs=given.epochs, queries=given.queries)


def run(*, train_size: int, epochs: int, queries: int) -> None:
    """Train, build every store, print the table."""
    torch.set_num_threads(1)
    splits = load("mnist", train_size=train_size)
    torch.manual_seed(0)
    model = LeNet5()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=2e-5)
    query = hg.sample_losses(splits.test, range(queries))
    with tempfile.TemporaryDirectory() as folder:
        recorded = hg.train(
            model, loss, splits.train, optimizer, epochs=epochs, batch_size=64, out=Path(folder) / "run"
        )
        reference = cast(hg.Scores, hg.hypergradients(recorded).contributions(query)).values
        kinds: dict[str, dict[str, Any]] = {
            "bfloat16": {"dtype": torch.bfloat16},
            "projected to 8,192": {"projection": 8192},
            "projected to 2,048": {"projection": 2048},
            "projected to 512": {"projection": 512},
            "projected to 2,048, bfloat16": {"projection": 2048, "dtype": torch.bfloat16},
        }
        print(f"{'':30} {'bytes a row':>11} {'Spearman':>9} {'rel. error':>10} {'top 10 kept':>11}")
        for name, options in kinds.items():
            store = hg.hypergradients(recorded, **options)
            found = cast(hg.Scores, store.contributions(query)).values
            error = ((found - reference).norm(dim=1) / reference.norm(dim=1)).mean()
            size = store.rows[0].nbytes
            print(
                f"{name:30} {size:11,} {spearman(found, reference):9.3f} {error:10.3f} {kept(found, reference):11.2f}"
            )


if __name__ == "__main__":
    main()
