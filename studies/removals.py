"""One fixed run, and its real changes without groups of its samples: the truth that estimators are compared with."""

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import TensorDataset

from hydragrad.datasets import Splits
from hydragrad.execution import Execution
from hydragrad.experiments.recipes import cross_entropy
from hydragrad.replay import Recording
from hydragrad.replay.changed_run import Change
from hydragrad.replay.retraining import retrain
from hydragrad.runs.lines import save_file
from hydragrad.scores import Query, mean_loss, sample_losses
from hydragrad.training import mean_loss_and_accuracy, train
from hydragrad.trust import smoothness
from hydragrad.trust.counterfactual import measure
from studies.networks import NETWORKS
from studies.rows import saved_array

Array = NDArray[np.float64]

WHOLE, HALF, FEW = 0.1, 0.05, 0.01
SHARES = (WHOLE, HALF, FEW)
HELD_OUT, SINGLE = 2_000, (0, 1)


class Removals:
    """A run with its queries and its really retrained removals; each is measured on first use, and saved.

    Args:
        folder: Holds the run, its retrainings and what was computed from them.
        splits: The data.
        network: One of `NETWORKS`.
        seed: Of initialisation and order, and of the groups.
        epochs: Passes over the training samples.
        count: Groups of the largest size; two thirds as many of the others.
        execution: Where retrainings run.
    """

    def __init__(
        self, folder: Path, splits: Splits, *, network: str, seed: int, epochs: int, count: int, execution: Execution
    ) -> None:
        self.splits, self.execution = splits, execution
        self._folder, self._network, self._seed, self._epochs = folder, network, seed, epochs
        self.groups = _groups(len(splits.train), count, seed)
        self.halved = count // 3
        self.queries = _queries(splits)

    @cached_property
    def run(self) -> Recording:
        """The run, trained where it is not there."""
        torch.manual_seed(self._seed)
        model = NETWORKS[self._network](self.splits.train.tensors[0].shape[1])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        return train(
            model,
            cross_entropy,
            self.splits.train,
            optimizer,
            epochs=self._epochs,
            batch_size=64,
            out=self._folder,
            seed=self._seed,
            resume=True,
        )

    @cached_property
    def training(self) -> float:
        """Processor seconds of one training."""

        def measured() -> Array:
            begin = time.process_time()
            list(retrain(self.run, [_without([0])], keep=False))
            return np.array([time.process_time() - begin])

        return float(saved_array(self._folder / "training-seconds.npy", measured)[0])

    @cached_property
    def facts(self) -> dict[str, float]:
        """Test accuracy, and what `smoothness` measures of the run."""
        smooth = smoothness(self.run, query=self.queries[0], steps=(0.5,), **self.execution.keywords)
        accuracy = mean_loss_and_accuracy(self.run.trained_model(), cross_entropy, self.splits.test)[1]
        assert accuracy is not None
        return {
            "test_accuracy": accuracy,
            "cosine": smooth.probes[-1].cosine,
            "rounding_growth": smooth.rounding_growth,
        }

    def actual(self, share: float) -> Array:
        """Return changes of [mean test loss, singles, mean validation loss] without each group, (queries, groups)."""
        return self._changes(f"left-out-{share:g}", [_without(group) for group in self.groups[share]])

    def rounded(self, share: float) -> Array:
        """Return the same for the first groups, from initial weights changed by one rounding."""
        epsilon = torch.finfo(torch.float32).eps
        some = self.groups[share][: self.halved]
        return self._changes(f"re-rounded-{share:g}", [_without(group, noise=epsilon) for group in some])

    def estimate(self, name: str, compute: Callable[[], Tensor]) -> tuple[Array, float]:
        """Return contributions, (queries, samples), and processor seconds; computed once."""
        file = self._folder / "estimates" / f"{name}.safetensors"
        if not file.exists():
            begin = time.process_time()
            values = compute()
            seconds = torch.tensor(time.process_time() - begin, dtype=torch.float64)
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"values": values, "seconds": seconds}, file, {})
        saved = load_file(file)
        return saved["values"].numpy(), saved["seconds"].item()

    def _changes(self, name: str, changes: Sequence[Change]) -> Array:
        def measured() -> Array:
            states = retrain(self.run, changes, execution=self.execution, keep=True)
            values: Array = measure(self.run, states, self.queries)[1].numpy()
            return values

        return saved_array(self._folder / "truth" / f"{name}-{len(changes)}.npy", measured)


def _groups(length: int, count: int, seed: int) -> dict[float, list[list[int]]]:
    generator = torch.Generator().manual_seed(1_000 + seed)

    def draw(share: float, number: int) -> list[list[int]]:
        size = max(1, round(share * length))
        return [torch.randperm(length, generator=generator)[:size].tolist() for _ in range(number)]

    whole = draw(WHOLE, count)
    halves = [half for group in whole[: count // 3] for half in (group[::2], group[1::2])]
    return {WHOLE: whole, HALF: halves, FEW: draw(FEW, 2 * (count // 3))}


def _queries(splits: Splits) -> list[Query]:
    test, validation = (_first(part) for part in (splits.test, splits.validation))
    return [
        mean_loss(test, name="test loss"),
        sample_losses(splits.test, SINGLE),
        mean_loss(validation, name="validation loss"),
    ]


def _first(part: TensorDataset) -> TensorDataset:
    return TensorDataset(*(tensor[:HELD_OUT] for tensor in part.tensors))


def _without(group: Sequence[int], *, noise: float = 0.0) -> Change:
    return Change(weights=dict.fromkeys(group, 0.0), noise=noise)
