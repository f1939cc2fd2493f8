"""Explanations: the extremes of the whole matrix, for either side, however it was divided into parts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from hydragrad.errors import QueryError
from hydragrad.reports import explaining
from hydragrad.reports.explaining import explained_samples, from_scores, from_store
from hydragrad.scores import Scores, mean_loss, sample_losses
from hydragrad.tracking import hypergradients


@pytest.fixture(scope="module")
def test_set() -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    return TensorDataset(torch.randn(23, 5, generator=generator), torch.arange(23) % 3)


def test_a_store_explains_wrong_predictions_first(run, test_set, monkeypatch):
    monkeypatch.setattr(explaining, "AT_ONCE", 4)  # so that extremes are merged over parts
    store = hypergradients(run)
    found = from_store(run, store, test_set, count=10)
    model = run.trained_model()
    x, y = test_set.tensors
    losses = torch.nn.functional.cross_entropy(model(x), y, reduction="none")
    wrong = model(x).argmax(1) != y
    assert found.misclassified == (int(wrong.sum()), 23) and 0 < wrong.sum() < 23
    order = sorted(range(23), key=lambda i: (not wrong[i], -losses[i]))
    expected = (
        order[:10] if wrong.sum() <= 8 else [i for i in order if wrong[i]][:8] + [i for i in order if not wrong[i]][:2]
    )
    assert found.samples.tolist() == expected
    np.testing.assert_allclose(found.predictions.losses, losses[expected], rtol=1e-4, atol=1e-7)
    whole = store.contributions(sample_losses(test_set, expected)).values
    whole = 100 * whole / whole.abs().sum(1, keepdim=True)  # shares: the scale was not measured
    assert found.suffix == " %"
    np.testing.assert_allclose(found.helpful_values, whole.topk(8).values, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.harmful_values, -(-whole).topk(8).values, rtol=1e-4, atol=1e-7)
    assert found.helpful.tolist() == whole.topk(8).indices.tolist()
    back = whole.T.topk(4)
    np.testing.assert_allclose(found.helped_values, back.values, rtol=1e-4, atol=1e-7)
    assert found.helped.tolist() == back.indices.tolist()
    np.testing.assert_allclose(found.harmed_values, whole.T.topk(4, largest=False).values, rtol=1e-4, atol=1e-7)
    assert set(found.named()) == {*found.helpful.ravel().tolist(), *found.harmful.ravel().tolist()}


def test_scores_of_single_samples_explain_them(run, test_set):
    asked = [sample_losses(test_set, [4, 2]), sample_losses(test_set, [9])]
    values = torch.arange(120, dtype=torch.float64).reshape(3, 40)
    names = tuple(name for query in asked for name in query.names())
    scores = Scores(
        values=values,
        sample_ids=torch.arange(40),
        query_names=names,
        query_values=torch.zeros(3, dtype=torch.float64),
        evidence=hypergradients(run).evidence(),
        queries=tuple(asked),
    )
    assert explained_samples(scores) == (test_set, (4, 2, 9))
    found = from_scores(run, scores, None)
    assert sorted(found.samples.tolist()) == [2, 4, 9] and found.dataset is test_set
    row = found.samples.tolist().index(9)
    assert found.helpful[row].tolist() == [39, 38, 37, 36, 35, 34, 33, 32]
    assert found.helped[0].tolist()[0] == row

    loaded = replace(scores, queries=None)
    assert explained_samples(loaded) == (None, (4, 2, 9)), "a file holds them"
    alone = from_scores(run, loaded, None)
    assert alone.samples.tolist() == [4, 2, 9] and alone.predictions is None
    other = replace(scores, queries=(mean_loss(test_set),), query_names=("loss", "b", "c"))
    assert explained_samples(other) is None
    with pytest.raises(QueryError, match=r"hg\.sample_losses"):
        from_scores(run, other, None)
