"""A model that returns its tensor in a mapping, a named tuple or an object is as good as one that returns it bare."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.errors import LossError


class Tuple(NamedTuple):
    logits: Tensor
    loss: None = None


@dataclass
class Holder:
    logits: Tensor


HOLDERS = {
    "bare": (lambda logits: logits, lambda output: output),
    "mapping": (lambda logits: {"loss": None, "logits": logits}, lambda output: output["logits"]),
    "tuple": (lambda logits: Tuple(logits), lambda output: output.logits),
    "object": (lambda logits: Holder(logits), lambda output: output.logits),
    "two": (lambda logits: (logits, logits.square()), lambda output: output[0]),
}


class Model(nn.Module):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.kind = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double(), kind

    def forward(self, x):
        return HOLDERS[self.kind][0](self.layers(x))


def loss(model, batch):
    return F.cross_entropy(HOLDERS[model.kind][1](model(batch[0])), batch[1], reduction="none")


def train(kind, path):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    train_set, model = TensorDataset(x, torch.randint(3, (12,), generator=generator)), Model(kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    return hg.train(model, loss, train_set, optimizer, epochs=2, batch_size=4, out=path)


@pytest.mark.parametrize("kind", ["mapping", "tuple", "object"])
def test_gauss_newton_labels_and_influence_are_the_same(kind, tmp_path):
    one, other = (train(name, tmp_path / name) for name in ("bare", kind))
    query = hg.mean_loss(one.train_set)
    ggn, expected = (hg.attribute(run, query, curvature="ggn", labels=True) for run in (other, one))
    assert torch.equal(ggn.values, expected.values) and ggn.values.abs().min() > 0
    torch.testing.assert_close(ggn.label_contributions, expected.label_contributions)
    influences = [hg.influence(run, query, checkpoints=2).values for run in (other, one)]
    torch.testing.assert_close(*influences)


def test_two_tensors_are_refused_by_number(tmp_path):
    run = train("two", tmp_path / "run")
    with pytest.raises(LossError, match="here the model returned a tuple with 2 tensors"):
        hg.attribute(run, hg.mean_loss(run.train_set), curvature="ggn")
