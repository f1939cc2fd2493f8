"""A user's own training, as `--from` takes it: items are dicts of an input, a label, and a group that looks like one.

A fifth of the labels is wrong; `TRUE` has the right ones.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

SAMPLES, WRONG = 150, 30


def rightly_labelled(size, seed):
    x = torch.randn(size, 4, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] > 0).long()


TRUE = rightly_labelled(SAMPLES, 1)[1]


class Own(Dataset):
    def __init__(self, size, seed, wrong=0):
        self.x, self.y = rightly_labelled(size, seed)
        self.y[:wrong] = 1 - self.y[:wrong]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "label": self.y[index].int(), "group": index % 2}


def loss(model, batch):
    return F.cross_entropy(model(batch["x"]), batch["label"].long(), reduction="none")


def setup():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    held_out = {"validation": Own(60, 2), "test": Own(60, 3)}
    return model, loss, Own(SAMPLES, 1, WRONG), optimizer, held_out
