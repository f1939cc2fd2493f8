"""A small run on two well separated classes, a tenth of the labels flipped."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.cleaning import flip_labels, save_labels


def loss(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


def clouds(size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % 2
    points = torch.randn(size, 2, generator=generator) + 3.0 * (2 * labels[:, None] - 1)
    return points, labels


@pytest.fixture(scope="session")
def noisy_run(tmp_path_factory):
    """The recorded run, its labels, and its scores with label contributions."""
    path = tmp_path_factory.mktemp("cleaning") / "run"
    points, true = clouds(80, seed=0)
    labels = flip_labels(true, 0.1, classes=2, seed=0)
    save_labels(path, labels)
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train_set = TensorDataset(points, labels.given)
    run = hg.train(model, loss, train_set, optimizer, epochs=3, batch_size=16, out=path)
    scores = hg.attribute(run, hg.mean_loss(TensorDataset(*clouds(40, seed=1)), "validation loss"), labels=True)
    return run, labels, scores
