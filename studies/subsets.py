"""Answers of networks trained on random subsets of the data: the truth of the linear datamodeling score.

A few networks are trained at once and their answers saved, so that a killed study loses only these.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hydragrad.derivatives import PerSampleLoss
from hydragrad.randomness import ORDER, stream_seed
from hydragrad.replay import Recording
from hydragrad.training import train
from hydragrad.trust.lds import lds, lds_interval
from studies.many_networks import outputs_together, train_together
from studies.rows import saved_array

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the networks of a protocol are trained.

    Attributes:
        build: Makes a network; it is called after torch.manual_seed.
        loss: Per-sample losses.
        measure: The answer, from a network's logits (tests, classes) and the labels (tests,); returns (tests,).
        at_once: Networks trained together, and saved together: the smaller a network, the more this gains.
    """

    build: Callable[[], nn.Module]
    loss: PerSampleLoss
    measure: Callable[[Tensor, Tensor], Tensor]
    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    at_once: int = 10

    def network(self, seed: int) -> nn.Module:
        """Return a network as its seed initialises it."""
        torch.manual_seed(seed)
        return self.build()

    def recorded(self, data: TensorDataset, seed: int, path: Path) -> Recording:
        """Return a run on all the data."""
        network = self.network(seed)
        optimizer = torch.optim.SGD(
            network.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        return train(
            network,
            self.loss,
            data,
            optimizer,
            epochs=self.epochs,
            batch_size=self.batch_size,
            out=path,
            seed=seed,
            resume=True,
        )


def answers_on_subsets(
    training: Training,
    data: TensorDataset,
    subsets: Sequence[Sequence[int]],
    seeds: Sequence[int],
    tests: TensorDataset,
    folder: Path,
    *,
    shuffled: bool = True,
) -> Array:
    """Return what the networks answer, float64 (networks, tests); saved in `folder`.

    Args:
        training: How they are trained.
        data: All samples.
        subsets: The samples of each network, equally many.
        seeds: Initialisation, order and dropout of each network.
        tests: The samples to answer.
        folder: Saves the answers.
        shuffled: Each network has an order of its own, another one every epoch; else the order of its subset.
    """
    parts = []
    for start in range(0, len(subsets), training.at_once):
        some = slice(start, start + training.at_once)
        work = partial(_answers, training, data, subsets[some], seeds[some], tests, shuffled)
        parts.append(saved_array(folder / f"networks-{start}-to-{start + len(subsets[some]) - 1}.npy", work))
    return np.concatenate(parts)


def _answers(
    training: Training,
    data: TensorDataset,
    subsets: Sequence[Sequence[int]],
    seeds: Sequence[int],
    tests: TensorDataset,
    shuffled: bool,
) -> Array:
    networks = [training.network(seed) for seed in seeds]
    members = torch.tensor(np.asarray(subsets), dtype=torch.int64)
    batches: list[Tensor] = []
    for epoch in range(training.epochs):
        order = members
        if shuffled:
            orders = [_order(seed, epoch, members.shape[1]) for seed in seeds]
            order = members.gather(1, torch.stack(orders))
        batches += order.split(training.batch_size, dim=1)
    trained = train_together(
        networks,
        training.loss,
        data,
        batches,
        lr=training.lr,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        seed=seeds[0],
        title="subsets",
    )
    x, y = tests.tensors
    logits = outputs_together(networks[0], trained, x)
    return np.stack([np.asarray(training.measure(of_network, y).double().numpy()) for of_network in logits])


def _order(seed: int, epoch: int, length: int) -> Tensor:
    return torch.randperm(length, generator=torch.Generator().manual_seed(stream_seed(seed, epoch, ORDER)))


def random_subsets(count: int, length: int, share: float, seed: int) -> list[list[int]]:
    """Sample subsets without replacement, each from a generator of its own: larger lists extend smaller ones."""
    size = int(share * length)
    return [np.random.default_rng(seed + i).choice(length, size, replace=False).tolist() for i in range(count)]


def left_out_sums(contributions: Array, subsets: Sequence[Sequence[int]]) -> Array:
    """Return predicted changes (queries, subsets): sums of contributions (queries, samples) outside each subset."""
    outside = np.ones((contributions.shape[1], len(subsets)))
    for number, members in enumerate(subsets):
        outside[np.asarray(members), number] = 0.0
    return np.asarray(contributions @ outside)


def score(contributions: Array, subsets: Sequence[Sequence[int]], actual: Array) -> tuple[float, float, float]:
    """Return the LDS with its 90 % bootstrap interval over subsets; `actual` (queries, subsets)."""
    predicted = left_out_sums(contributions, subsets)
    return lds(predicted, actual), *lds_interval(predicted, actual)
