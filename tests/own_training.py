"""A user's own training, as `--from` takes it."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset


def loss(model, batch):
    x, y = batch
    return F.mse_loss(model(x), y, reduction="none").mean(1)


def setup():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=generator)
    train_set, test_set = TensorDataset(x[:30], x[:30, :1]), TensorDataset(x[30:], x[30:, :1])
    model = nn.Linear(3, 1)
    return model, loss, train_set, torch.optim.SGD(model.parameters(), lr=0.05), {"validation": test_set}


def wrong():
    return 1, 2
