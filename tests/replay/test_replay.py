"""A recording repeats its run to the bit, and touches nothing of its user's."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

import hydragrad as hg
from hydragrad.training import augmented
from recording.toys import BATCH_SIZE, Plain, build, build_batch_norm, loss, replays_to_the_bit, samples, sgd, train


class Augmented(Plain):
    """Draws from all three global generators."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.randn(4) + 0.1 * float(np.random.standard_normal()) + 0.1 * random.gauss(0, 1), y


class Unseeded(Plain):
    """Draws from a generator that nobody can seed again."""

    generator = torch.Generator()

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.randn(4, generator=self.generator), y


class Named(Plain):
    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        return {"x": x, "y": y}


def shifted(items: list[Any]) -> Any:
    x, y = default_collate(items)
    return x + torch.rand(()), y


def named_loss(model: Any, batch: Any) -> Tensor:
    return loss(model, (batch["x"], batch["y"]))


def noisy(batch: Any) -> Any:
    return batch[0] + 0.1 * torch.randn_like(batch[0]), batch[1]


RUNS: dict[str, dict[str, Any]] = {
    "every step": {"checkpoint_every": 1},
    "every 7 steps": {"checkpoint_every": 7},
    "batch norm": {"build": build_batch_norm},
    "data set draws": {"data": Augmented()},
    "collate draws": {"data": Plain(), "collate": shifted},
    "dict batches": {"data": Named(), "loss": named_loss},
    "loss draws": {"loss": augmented(loss, noisy)},
}


def loop(
    path: Path, model: nn.Module, data: Dataset[Any], *, loss: Any = loss, workers: int = 0, **options: Any
) -> hg.Recording:
    """Two epochs of a user's own."""
    optimizer, collate = sgd(model), options.get("collate")
    loader = DataLoader(data, BATCH_SIZE, shuffle=True, num_workers=workers, collate_fn=collate)
    with hg.Recorder(path, model, optimizer, loss, data, **options) as recorder:
        for _ in range(2):
            for indices, batch in hg.indexed(loader):
                with recorder.step(indices, batch):
                    optimizer.zero_grad()
                    loss(model, batch).mean().backward()
                    optimizer.step()
    return hg.Recording(path, model, loss, data, collate=collate)


@pytest.mark.parametrize("own_loop", [False, True])
@pytest.mark.parametrize("name", RUNS)
def test_replay_is_equal_to_the_bit(tmp_path: Path, name: str, own_loop: bool) -> None:
    options = dict(RUNS[name])
    model, data = options.pop("build", build)(), options.pop("data", samples())
    run = loop(tmp_path, model, data, **options) if own_loop else train(tmp_path, model, data, **options)
    assert replays_to_the_bit(run)


def test_replay_is_equal_with_workers(tmp_path: Path) -> None:
    assert replays_to_the_bit(loop(tmp_path, build(), Augmented(), workers=2))


def test_stored_batches_replay_what_cannot_be_drawn_again(tmp_path: Path) -> None:
    assert replays_to_the_bit(loop(tmp_path, build(), Unseeded(), store_batches=True))


def test_a_recording_leaves_model_and_generators_alone(tmp_path: Path) -> None:
    train(tmp_path)
    model = build_weights_of_zero()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    run = hg.Recording(tmp_path, model, loss, samples())
    run.trained_model()
    assert replays_to_the_bit(run)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    assert all(not parameter.any() for parameter in model.parameters())


def build_weights_of_zero() -> nn.Module:
    model = build()
    for parameter in model.parameters():
        parameter.data.zero_()
    return model


@pytest.mark.parametrize("workers", [0, 2])
def test_indexed_keeps_the_stock_order(workers: int) -> None:
    data = samples()
    loader = DataLoader(data, BATCH_SIZE, shuffle=True, num_workers=workers)
    torch.manual_seed(5)
    stock = [batch for _ in range(2) for batch in loader]
    torch.manual_seed(5)
    ours = [pair for _ in range(2) for pair in hg.indexed(loader)]
    for (x, _), (indices, batch) in zip(stock, ours, strict=True):
        assert torch.equal(batch[0], x)
        assert torch.equal(data.tensors[0][indices], x)
