"""Mean loss and accuracy, whatever else the items hold."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from hydragrad.training import mean_loss_and_accuracy
from labelled_items import HELD_OUT, LAYOUTS, held_out, loss_of, model, vectors


@pytest.mark.parametrize("name", LAYOUTS)
def test_accuracy_is_of_the_label(name):
    trained, layout = model().train(), LAYOUTS[name]
    x, labels = vectors(HELD_OUT, 2)
    loss, accuracy = mean_loss_and_accuracy(trained, loss_of(layout), held_out(layout))
    right = (trained(x).argmax(1) == torch.tensor(labels)).double().mean().item()
    assert 0 < right < 1
    assert accuracy == pytest.approx(right)
    assert loss == pytest.approx(layout.loss(trained(x), torch.tensor(labels)).mean().item())
    assert trained.training


def test_probabilities_have_an_accuracy_and_several_labels_have_none():
    x, labels = vectors(HELD_OUT, 2)
    y, trained = torch.tensor(labels), nn.Sequential(model(), nn.Softmax(1))
    data = TensorDataset(x, y, torch.arange(HELD_OUT) % 3)

    def likelihood(model, batch):
        return F.nll_loss(model(batch[0]).log(), batch[1], reduction="none")

    def both(model, batch):
        return likelihood(model, batch) + likelihood(model, [batch[0], batch[2]])

    _, accuracy = mean_loss_and_accuracy(trained, likelihood, data)
    assert accuracy == pytest.approx((trained(x).argmax(1) == y).double().mean().item())
    assert mean_loss_and_accuracy(trained, both, data)[1] is None
