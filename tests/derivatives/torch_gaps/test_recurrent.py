"""Recurrent layers in float32, where training uses fused kernels without a forward-mode rule."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

import case_models
import hydragrad as hg


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer, self.out = kind(4, 5, batch_first=True), nn.Linear(5, case_models.CLASSES)

    def forward(self, x):
        return self.out(self.layer(x)[0][:, -1])


def attributed(kind, dtype, path, curvature):
    data = [part.to(dtype) if part.is_floating_point() else part for part in case_models.vectors(3, 4)(12, 1).tensors]
    train_set = torch.utils.data.TensorDataset(*data)
    torch.manual_seed(0)
    model = Recurrent(kind).to(dtype)
    optimizer = SGD(model.parameters(), lr=0.3, momentum=0.5)
    run = hg.train(model, case_models.cross_entropy_loss, train_set, optimizer, epochs=2, batch_size=5, out=path)
    return hg.attribute(run, hg.mean_loss(train_set), curvature=curvature).values


@pytest.mark.parametrize("curvature", ["none", "hessian", "ggn"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_single_precision_gives_what_double_precision_gives(kind, curvature, tmp_path):
    given = attributed(kind, torch.float32, tmp_path / "single", curvature)
    expected = attributed(kind, torch.float64, tmp_path / "double", curvature)
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-6)
