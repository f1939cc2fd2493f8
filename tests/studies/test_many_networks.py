"""Many networks at once against one at a time."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from hydragrad.errors import Unsupported
from studies.many_networks import outputs_together, train_together

NETWORKS, SAMPLES, STEPS = 3, 12, 7


def loss(model, batch):
    penalty = sum(p.square().sum() for p in model.parameters())
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none") + 0.01 * penalty


def networks(*layers):
    for seed in range(NETWORKS):
        torch.manual_seed(seed)
        yield nn.Sequential(nn.Linear(4, 5), *layers, nn.Linear(5, 3)).double()


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, 4, generator=generator, dtype=torch.float64)
    return TensorDataset(x, torch.randint(3, (SAMPLES,), generator=generator))


def rate(step):
    return 0.1 / (1 + step)


def alone(model, batches, weights, **options):
    """torch's own optimizer."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, **options)
    for step, indices in enumerate(batches):
        optimizer.param_groups[0]["lr"] = rate(step)
        losses = loss(model, [part[indices] for part in data().tensors])
        optimizer.zero_grad()
        (losses * weights[indices]).sum().div(len(indices)).backward()
        optimizer.step()
    return dict(model.named_parameters())


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "weight_decay": 0.1}])
@pytest.mark.parametrize("own_order", [False, True])
def test_as_one_at_a_time(options, own_order):
    generator = torch.Generator().manual_seed(1)
    shape = (NETWORKS, 4) if own_order else (4,)
    batches = [torch.randint(SAMPLES, shape, generator=generator) for _ in range(STEPS)]
    weights = torch.rand(NETWORKS, SAMPLES, generator=generator, dtype=torch.float64)
    models = list(networks(nn.Tanh()))
    found = train_together(models, loss, data(), batches, lr=rate, weights=weights, **options)
    x = data().tensors[0]
    answers = outputs_together(models[0], found, x)
    for number, model in enumerate(networks(nn.Tanh())):
        before = model[0].weight.detach().clone()
        expected = alone(model, [b[number] if own_order else b for b in batches], weights[number], **options)
        assert (expected["0.weight"] - before).abs().max() > 1e-3
        for name, value in expected.items():
            torch.testing.assert_close(found[name][number], value.detach(), rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(answers[number], model(x).detach())
    torch.testing.assert_close(models[0][0].weight, next(networks(nn.Tanh()))[0].weight)


def test_each_network_has_its_own_dropout():
    torch.manual_seed(0)
    same = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3)).double()
    found = train_together([same, same], loss, data(), [torch.arange(6)], lr=0.1, seed=3)
    again = train_together([same, same], loss, data(), [torch.arange(6)], lr=0.1, seed=3)
    weight = found["0.weight"]
    assert (weight[0] - weight[1]).abs().max() > 1e-3
    assert torch.equal(weight, again["0.weight"])
    assert torch.equal(
        outputs_together(same, found, data().tensors[0]), outputs_together(same, found, data().tensors[0])
    )


def test_buffers_are_refused():
    with pytest.raises(Unsupported, match="BatchNorm"):
        train_together([nn.BatchNorm1d(4)], loss, data(), [torch.arange(2)], lr=0.1)
