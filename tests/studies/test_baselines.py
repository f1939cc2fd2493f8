"""Baselines: TracIn against gradients one by one, cleanlab's ranking."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import hydragrad as hg
from hydragrad.experiments.recipes import cross_entropy
from studies.baselines import confident_learning, tracin


def data(size: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % 3
    return TensorDataset(torch.randn(size, 4, generator=generator) + labels[:, None], labels)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    out = tmp_path_factory.mktemp("baselines") / "run"
    return hg.train(model, cross_entropy, data(24, 0), optimizer, epochs=4, batch_size=8, out=out, checkpoint_every=3)


def flat_gradient(model, images, labels):
    loss = F.cross_entropy(model(images), labels)
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(model.parameters()))])


def each_gradient(model, dataset):
    return torch.stack([flat_gradient(model, x[None], y[None]) for x, y in dataset])


def test_tracin_sums_gradient_products_over_checkpoints(trained):
    held_out, expected = data(12, 1), torch.zeros(24)
    for step, _ in trained.segments:
        model = trained.trained_model().requires_grad_(True)
        model.load_state_dict(trained.checkpoint(step).parameters)
        expected += 0.05 * each_gradient(model, trained.train_set) @ flat_gradient(model, *held_out.tensors)
    single = tracin(trained, hg.sample_losses(held_out, range(12)), points=len(trained.segments))
    torch.testing.assert_close(single.mean(0).float(), expected, rtol=1e-4, atol=1e-6)
    found = tracin(trained, hg.mean_loss(held_out), points=len(trained.segments))
    torch.testing.assert_close(found[0].float(), expected, rtol=1e-4, atol=1e-6)


def test_confident_learning_finds_what_every_model_denies():
    pytest.importorskip("cleanlab", reason="confident learning needs the extra 'studies'")
    true = torch.arange(60) % 3
    given = true.clone()
    given[[0, 10, 20]] = (given[[0, 10, 20]] + 1) % 3
    found = confident_learning(given, F.one_hot(true, 3) * 0.8 + 0.2 / 3)
    assert sorted(found.suspects) == [0, 10, 20]
    assert set(found.suspicion.topk(3).indices.tolist()) == {0, 10, 20}
