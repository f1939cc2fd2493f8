"""Labels of dtype uint8 against the same labels as int64, in every kind of derivative."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from case_models import vectors


def functional(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def by_module(model, batch):
    return nn.NLLLoss(reduction="none")(model(batch[0]).log_softmax(1), target=batch[1])


def by_keyword(model, batch):
    return F.cross_entropy(input=model(batch[0]), target=batch[1], reduction="none")


@pytest.mark.parametrize("curvature", ["none", "hessian", "ggn"])
@pytest.mark.parametrize("loss", [functional, by_module, by_keyword])
def test_byte_labels_are_labels(loss, curvature, tmp_path):
    x, y = vectors(4)(9, 1).tensors
    values = []
    for dtype in (torch.uint8, torch.int64):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
        data = TensorDataset(x, y.to(dtype))
        run = hg.train(model, loss, data, optimizer, epochs=3, batch_size=3, out=tmp_path / str(dtype))
        queries = [hg.sample_losses(data, [0, 1]), hg.sample_margins(data, [2])]
        values.append(hg.attribute(run, queries, curvature=curvature, labels=curvature != "ggn").values)
        hg.hypergradients(run, curvature="hessian" if curvature == "hessian" else "none")
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-15)
    assert values[0].abs().min() > 0
