"""A small run on pictures of three classes, some of whose labels are wrong, and its suspects."""

from dataclasses import dataclass

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg

CLASSES = ("a cat", "a dog", "a <fox> & more")
SAMPLES, WRONG = 45, 6


def loss(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


def pictures(size, seed):
    labels = torch.arange(size) % 3
    noise = torch.rand(size, 1, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 0.4 * noise + 0.6 * (torch.arange(6).div(2, rounding_mode="floor") == labels[:, None])[
        :, None, :, None
    ], labels


@dataclass(frozen=True)
class Subject:
    """A run, its suspects, and the labels that are right."""

    run: hg.Recording
    suspects: pd.DataFrame
    true: torch.Tensor
    labels: tuple[str, ...] = CLASSES

    @property
    def given(self):
        return self.run.train_set.tensors[1]

    def export(self, place, **options):
        return hg.export_suspects(self.run, self.suspects, place, classes=CLASSES, **options)

    def read(self, place):
        return hg.import_labels(self.run, place, classes=CLASSES)

    def wrong(self, count):
        """The first suspects whose label is wrong, and one that is right."""
        samples = self.suspects["sample"].tolist()
        wrong = [sample for sample in samples if self.given[sample] != self.true[sample]]
        return wrong[:count], next(sample for sample in samples if self.given[sample] == self.true[sample])


@pytest.fixture(scope="session")
def subject(tmp_path_factory):
    x, true = pictures(SAMPLES, 1)
    given = true.clone()
    given[:WRONG] = (given[:WRONG] + 1) % 3
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    out = tmp_path_factory.mktemp("labelling") / "run"
    run = hg.train(model, loss, TensorDataset(x, given), optimizer, epochs=3, batch_size=9, out=out)
    scores = hg.attribute(run, hg.mean_loss(TensorDataset(*pictures(30, 2)), name="validation loss"), labels=True)
    return Subject(run, hg.suspects(run, scores), true)
