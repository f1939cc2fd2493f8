"""Runs in pairs: an odd model, loss or data set, and a plain one that computes the same. Their answers must be equal.

The runs are float64, 12 samples, nine steps of four, SGD with momentum.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset, default_collate

import hydragrad as hg
from hydragrad.randomness import seeded

SAMPLES, CLASSES = 12, 3


def vectors(length: int = SAMPLES, seed: int = 1) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(length, 4, generator=generator, dtype=torch.float64)
    return TensorDataset(x, torch.randint(CLASSES, (length,), generator=generator))


def held_out() -> TensorDataset:
    return vectors(7, seed=2)


def loss(model: Any, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES))


def made(build: Callable[[], nn.Module]) -> nn.Module:
    with seeded(3):
        return build().double()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)


def order(length: int = SAMPLES, epochs: int = 3) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    every = [torch.randperm(length, generator=generator).tolist() for _ in range(epochs)]
    return [epoch[start : start + 4] for epoch in every for start in range(0, length, 4)]


def record(
    path: Path,
    build: Callable[[], nn.Module] = mlp,
    data: Dataset[Any] | None = None,
    loss: Any = loss,
    *,
    collate: Any = None,
    steps: Sequence[Sequence[int]] | None = None,
) -> hg.Recording:
    """Record the loop, and open it with a model that was never trained."""
    train_set = vectors() if data is None else data
    model = made(build)
    optimizer = sgd(model)
    with hg.Recorder(path, model, optimizer, loss, train_set, collate=collate, seed=0) as recorder:
        for indices in order(len(train_set)) if steps is None else steps:  # type: ignore[arg-type]
            with recorder.step(indices):
                optimizer.zero_grad()
                loss(model, (collate or default_collate)([train_set[i] for i in indices])).mean().backward()
                optimizer.step()
    return hg.Recording(path, made(build), loss, train_set, collate=collate)


def track(
    build: Callable[[], nn.Module] = mlp,
    data: Dataset[Any] | None = None,
    loss: Any = loss,
    queried: Dataset[Any] | None = None,
    *,
    collate: Any = None,
) -> Tensor:
    """Contributions by a Tracker alone in the loop, which gets the batches."""
    train_set = vectors() if data is None else data
    model = made(build)
    optimizer = sgd(model)
    with hg.Tracker(model, optimizer, loss, train_set, collate=collate, seed=0) as tracker:
        for indices in order(len(train_set)):  # type: ignore[arg-type]
            batch = (collate or default_collate)([train_set[i] for i in indices])
            with tracker.step(indices, batch):
                optimizer.zero_grad()
                loss(model, batch).mean().backward()
                optimizer.step()
    answer = tracker.contributions(hg.mean_loss(held_out() if queried is None else queried))
    assert isinstance(answer, hg.Scores)
    return answer.values


ROUTES: dict[str, Callable[[hg.Recording, hg.scores.Query], Any]] = {
    "hooks or forward mode": hg.attribute,
    "forward mode": lambda run, query: hg.attribute(run, query, route="jvp"),
    "hessian": lambda run, query: hg.attribute(run, query, curvature="hessian"),
    "store": lambda run, query: hg.hypergradients(run).contributions(query),
    "counterfactual": lambda run, query: hg.counterfactual(run, [[0], [5]], query, keep=False),
}


def answers(run: hg.Recording, queried: Dataset[Any] | None = None, leave_out: Sequence[str] = ()) -> dict[str, Tensor]:
    """The values of every route."""
    query = hg.mean_loss(held_out() if queried is None else queried)
    return {name: route(run, query).values for name, route in ROUTES.items() if name not in leave_out}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name, values in ours.items():
        assert theirs[name].abs().max() > 1e-4, name
        torch.testing.assert_close(values, theirs[name], rtol=1e-9, atol=1e-12, msg=lambda text, name=name: name + text)
