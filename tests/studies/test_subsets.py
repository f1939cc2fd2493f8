"""Networks on subsets: the same as each trained on its own, kept, and scored."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from hydragrad.experiments.recipes import cross_entropy
from hydragrad.randomness import ORDER, stream_seed
from studies import subsets
from studies.subsets import Training, answers_on_subsets, left_out_sums, random_subsets, score

TRAINING = Training(
    build=lambda: nn.Linear(3, 2).double(),
    loss=cross_entropy,
    measure=lambda logits, labels: F.cross_entropy(logits, labels, reduction="none"),
    epochs=3,
    batch_size=4,
    lr=0.2,
    momentum=0.5,
    weight_decay=0.1,
    at_once=2,
)


def data(count: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(count)
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return TensorDataset(x, (x[:, 0] > 0).long())


def alone(members: list[int], seed: int, *, shuffled: bool) -> np.ndarray:
    network = TRAINING.network(seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.5, weight_decay=0.1)
    for epoch in range(3):
        generator = torch.Generator().manual_seed(stream_seed(seed, epoch, ORDER))
        order = torch.randperm(6, generator=generator) if shuffled else torch.arange(6)
        for indices in torch.tensor(members)[order].split(4):
            x, y = (part[indices] for part in data(12).tensors)
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
    x, y = data(5).tensors
    return F.cross_entropy(network(x), y, reduction="none").detach().numpy()


@pytest.mark.parametrize("shuffled", [True, False])
def test_answers_are_those_of_networks_trained_alone(tmp_path, monkeypatch, shuffled):
    chosen = random_subsets(3, 12, 0.5, 0)
    given = (TRAINING, data(12), chosen, [4, 5, 6], data(5), tmp_path)
    found = answers_on_subsets(*given, shuffled=shuffled)
    for row, members, seed in zip(found, chosen, [4, 5, 6], strict=True):
        np.testing.assert_allclose(row, alone(members, seed, shuffled=shuffled), rtol=1e-10)
    assert np.ptp(found, axis=0).min() > 1e-4

    monkeypatch.setattr(subsets, "_answers", lambda *_: pytest.fail("trained again"))
    np.testing.assert_array_equal(answers_on_subsets(*given, shuffled=shuffled), found)


def test_more_subsets_begin_with_the_same():
    few, more = random_subsets(2, 10, 0.5, 3), random_subsets(4, 10, 0.5, 3)
    assert more[:2] == few
    assert all(len(set(members)) == 5 for members in more)


def test_predictions_are_sums_over_what_is_left_out():
    contributions = np.arange(10.0).reshape(2, 5)
    found = left_out_sums(contributions, [[0, 1], [2, 4]])
    np.testing.assert_array_equal(found, [[2 + 3 + 4, 0 + 1 + 3], [7 + 8 + 9, 5 + 6 + 8]])


def test_what_sums_to_the_truth_scores_one():
    chosen = random_subsets(8, 20, 0.5, 0)
    contributions = np.random.default_rng(0).normal(size=(3, 20))
    value, low, high = score(contributions, chosen, left_out_sums(contributions, chosen))
    assert value == pytest.approx(1.0)
    assert low == high == pytest.approx(1.0)
    assert score(-contributions, chosen, left_out_sums(contributions, chosen))[0] == pytest.approx(-1.0)
