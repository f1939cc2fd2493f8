"""Small runs on items that hold more than an input and a label, or the label in another form."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

import hydragrad as hg

SAMPLES, HELD_OUT, CLASSES = 18, 40, 3


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


@dataclass(frozen=True)
class Layout:
    """How items are made, and what the loss takes out of their batches.

    Attributes:
        item: `item(x, label, index)`, the label an int.
        take: Input and label of a batch, as cross-entropy takes them.
        loss: Of logits and labels.
    """

    item: Callable[[Tensor, int, int], Any]
    take: Callable[[Any], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy


class Items(Dataset[Any]):
    """A data set of one layout."""

    def __init__(self, layout: Layout, x: Tensor, labels: list[int]) -> None:
        self.layout, self.x, self.labelled = layout, x, labels

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.layout.item(self.x[index], self.labelled[index], index)


def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.2)


LAYOUTS = {
    "x, y, index": Layout(lambda x, y, i: (x, torch.tensor(y), i), lambda b: (b[0], b[1])),
    "x, length, y": Layout(lambda x, y, i: (x, i % 3, y), lambda b: (b[0], b[2])),
    "index, x, y": Layout(lambda x, y, i: (i, x, y), lambda b: (b[1], b[2])),
    "x, (y, meta)": Layout(lambda x, y, i: [x, (y, {"site": i % 3, "name": "a"})], lambda b: (b[0], b[1][0])),
    "a dict": Layout(lambda x, y, i: {"id": i % 3, "label": y, "x": x}, lambda b: (b["x"], b["label"])),
    "uint8": Layout(lambda x, y, i: (x, torch.tensor(y, dtype=torch.uint8)), lambda b: (b[0], b[1])),
    "int32": Layout(lambda x, y, i: (x, torch.tensor(y, dtype=torch.int32)), lambda b: (b[0], b[1].long())),
    "numpy": Layout(lambda x, y, i: (x.numpy(), np.int16(y), np.array([i, 2])), lambda b: (b[0], b[1].long())),
    "float": Layout(lambda x, y, i: (x, float(y), i), lambda b: (b[0], b[1].long())),
    "one-hot": Layout(lambda x, y, i: (x, F.one_hot(torch.tensor(y), CLASSES).double(), i % 3), lambda b: (b[0], b[1])),
    "smoothed": Layout(lambda x, y, i: (x, y, i % 3), lambda b: (b[0], b[1]), smoothed),
}


def vectors(size: int, seed: int) -> tuple[Tensor, list[int]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (size,), generator=generator).tolist()


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES)).double()


def loss_of(layout: Layout) -> Callable[[Any, Any], Tensor]:
    def loss(model: Any, batch: Any) -> Tensor:
        x, labels = layout.take(batch)
        return layout.loss(model(x), labels)

    return loss


def train(layout: Layout, path: Path, train_set: Dataset[Any] | None = None) -> hg.Recording:
    """A short run."""
    trained = model()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.3, momentum=0.8)
    train_set = Items(layout, *vectors(SAMPLES, 1)) if train_set is None else train_set
    return hg.train(trained, loss_of(layout), train_set, optimizer, epochs=3, batch_size=6, out=path)


def held_out(layout: Layout) -> Items:
    """Data that the run was not trained on."""
    return Items(layout, *vectors(HELD_OUT, 2))
