"""Models that checkpoint their activations or are compiled: their derivatives are those of the plain model."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.utils.checkpoint import checkpoint

import hydragrad as hg
from case_models import CLASSES, cross_entropy_loss, vectors


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.a, self.middle, self.out = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)
        self.drop, self.reentrant = nn.Dropout(0.3), reentrant

    def inner(self, h):
        return torch.tanh(self.middle(self.drop(h)))

    def forward(self, x):
        h = torch.tanh(self.a(x))
        h = self.inner(h) if self.reentrant is None else checkpoint(self.inner, h, use_reentrant=self.reentrant)
        return self.out(h)


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[no-any-return]


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def attributed(model, path, curvature):
    data = vectors(3)(10, 1)
    optimizer = SGD(model.parameters(), lr=0.3, momentum=0.5)
    run = hg.train(model, cross_entropy_loss, data, optimizer, epochs=2, batch_size=4, out=path)
    by_rows = hg.hypergradients(run, curvature="hessian").contributions(hg.mean_loss(data)).values
    return hg.attribute(run, hg.mean_loss(data), curvature=curvature).values, by_rows


@pytest.mark.parametrize("curvature", ["none", "hessian", "ggn"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_models_have_the_derivatives_of_plain_ones(reentrant, curvature, tmp_path):
    torch.manual_seed(0)
    plain = Checkpointed(None).double()
    model = copy.deepcopy(plain)
    model.reentrant = reentrant
    expected = attributed(plain, tmp_path / "plain", curvature)
    torch.testing.assert_close(attributed(model, tmp_path / "checkpointed", curvature), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("curvature", ["none", "hessian", "ggn"])
@pytest.mark.parametrize("compiling", [compiled, compiled_in_place])
def test_compiled_models_have_the_derivatives_of_plain_ones(compiling, curvature, tmp_path):
    torch.manual_seed(0)
    plain = Checkpointed(None).double()
    expected = attributed(copy.deepcopy(plain), tmp_path / "plain", curvature)
    given = attributed(compiling(plain), tmp_path / "compiled", curvature)
    torch.testing.assert_close(given, expected, rtol=1e-9, atol=1e-12)
