"""Contributions of several libraries against the same real retrainings, on data that need no download.

An MLP on 1,000 digits, SGD .01/.9, 10 epochs. Two banks, each a file of kilobytes that `hydragrad evaluate` takes:
*this run*, the run of seed 0 made again without random tenths, order and randomness as they were; and *the data*,
random halves left out of runs of several seeds. Queries are the losses of single test images. All methods get the
run of seed 0 and its checkpoints at the ends of epochs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor
from torch.utils.data import TensorDataset

from hydragrad.attribution import attribute, influence, tracin
from hydragrad.cli.console import columns, number, say, write_json
from hydragrad.cli.options import Json, Quiet
from hydragrad.datasets import load
from hydragrad.experiments.recipes import cross_entropy
from hydragrad.progress import quiet
from hydragrad.replay import Recording
from hydragrad.scores import Query, sample_losses
from hydragrad.training import train
from hydragrad.trust import Bank, Evaluation, bank, evaluate
from studies.networks import NETWORKS
from studies.other_libraries import LIBRARIES, installed
from studies.rows import saved_array

RATE, MOMENTUM, BATCH = 0.01, 0.9, 64
THIS_RUN, THE_DATA = "this run", "the data"
BANKS = (THIS_RUN, THE_DATA)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured.

    Attributes:
        train_size: Digits.
        epochs: Passes over them.
        queries: Test images.
        subsets: Retrainings of a bank and seed.
        seeds: Runs of the bank of the data.
    """

    train_size: int = 1000
    epochs: int = 10
    queries: int = 20
    subsets: int = 60
    seeds: int = 5


class Comparison:
    """Runs, banks and matrices of one setting; everything is made on first use, and saved in `folder`."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self.folder, self.sizes = folder, sizes
        splits = load("digits", train_size=sizes.train_size)
        self.train_set: TensorDataset = splits.train
        self.tests = TensorDataset(*(part[: sizes.queries] for part in splits.test.tensors))

    @property
    def queries(self) -> Query:
        """The loss of every test image."""
        return sample_losses(self.tests, range(len(self.tests)))

    def run(self, seed: int) -> Recording:
        """The run of a seed."""
        torch.manual_seed(seed)
        model = NETWORKS["mlp"](self.train_set.tensors[0].shape[1])
        return train(
            model,
            cross_entropy,
            self.train_set,
            torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM),
            epochs=self.sizes.epochs,
            batch_size=BATCH,
            out=self.folder / f"run-{seed}",
            seed=seed,
            checkpoint_every=-(-len(self.train_set) // BATCH),
            resume=True,
        )

    @cached_property
    def first(self) -> Recording:
        """The run that is scored."""
        return self.run(0)

    def bank(self, name: str) -> Bank:
        """One of `BANKS`."""
        file, subsets = self.folder / f"{name.replace(' ', '-')}.safetensors", self.sizes.subsets
        if file.exists():
            return Bank.open(file)
        if name == THIS_RUN:
            some = subsets // 2
            return bank(self.first, self.queries, subsets=subsets, size=0.1, repeats=some, halves=some, path=file)
        runs = [self.run(seed) for seed in range(self.sizes.seeds)]
        return bank(runs, self.queries, subsets=subsets, size=0.5, path=file)

    def matrices(self) -> Iterator[tuple[str, np.ndarray]]:
        """Name and contributions (queries, samples) of every method that is there."""
        for name, measure in (self._ours() | self._theirs()).items():
            yield name, saved_array(self.folder / "matrices" / f"{name}.npy", partial(_array, measure))

    def _ours(self) -> dict[str, Callable[[], Tensor]]:
        run, queries = self.first, self.queries
        exact: dict[str, Callable[[], Tensor]] = {
            "hydragrad, none": lambda: attribute(run, queries).values,
            "hydragrad, ggn": lambda: attribute(run, queries, curvature="ggn").values,
            "hydragrad, hessian": lambda: attribute(run, queries, curvature="hessian").values,
            "hydragrad, influence": lambda: influence(run, queries).values,
            "hydragrad, TracIn": lambda: tracin(run, queries).values,
        }
        return exact

    def _theirs(self) -> dict[str, Callable[[], Tensor]]:
        model = self.first.trained_model().requires_grad_(True)  # dattri takes what requires a gradient
        states = [self.first.checkpoint(start).parameters for start, _ in self.first.segments[1:]]
        states.append(self.first.last.parameters)
        parts = model, states, self.train_set, self.tests, RATE
        return {name: partial(matrix, *parts) for name, matrix in installed().items()}


def _array(measure: Callable[[], Tensor]) -> np.ndarray:
    return measure().double().numpy()


def libraries(
    out: Annotated[Path, typer.Option(help="Folder for runs, banks and matrices.")] = Path("runs/libraries"),
    train_size: Annotated[int, typer.Option(min=1, help="Digits.")] = Sizes.train_size,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over them.")] = Sizes.epochs,
    queries: Annotated[int, typer.Option(min=1, max=500, help="Test images.")] = Sizes.queries,
    subsets: Annotated[int, typer.Option(min=3, help="Retrainings of a bank and seed.")] = Sizes.subsets,
    seeds: Annotated[int, typer.Option(min=2, help="Runs of the bank of the data.")] = Sizes.seeds,
    json: Json = None,
    silent: Quiet = False,
) -> None:
    """Contributions of several libraries against the same real retrainings of a small MLP.

    captum, dattri and traker take part where they are installed. Some ten minutes; if interrupted, the same command
    resumes. The banks it makes are those in docs/results.

    Example: python -m studies libraries --subsets 10 --seeds 2
    """
    sizes = Sizes(train_size=train_size, epochs=epochs, queries=queries, subsets=subsets, seeds=seeds)
    figures: dict[str, float | None] = {}
    with quiet(silent):
        compared = Comparison(out, sizes)
        matrices = dict(compared.matrices())
        banks = {name: compared.bank(name) for name in BANKS}
    missing = [name for name in LIBRARIES if name not in matrices]
    if missing:
        say(f"not installed, and left out: {', '.join(missing)}")
    for name, truth in banks.items():
        found = {method: evaluate(matrix, truth, seed=0) for method, matrix in matrices.items()}
        _show(name, truth, found)
        figures |= {f"{name} {method} lds": one.lds for method, one in found.items()}
    write_json(json, figures)


def _show(name: str, truth: Bank, found: dict[str, Evaluation]) -> None:
    columns(
        f"{name}: {truth}",
        ("method", "LDS", "90 %", "LDS for other seeds", "actual over predicted"),
        [
            (
                method,
                number(one.lds),
                " to ".join(map(number, one.lds_interval)),
                number(one.cross_seed_lds),
                number(one.scale),
            )
            for method, one in found.items()
        ],
        left=["method"],
    )
    ceilings = next(iter(found.values())).ceilings
    say("; ".join(f"ceiling {one.kind}: LDS {number(one.lds)} over {one.groups} groups" for one in ceilings))
