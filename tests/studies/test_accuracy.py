"""Accuracy: one row a training, and a kept row is not made again."""

from studies import accuracy
from studies.accuracy import reproduce_accuracy


def test_rows_are_kept(tmp_path, monkeypatch):
    first = reproduce_accuracy(tmp_path, data="digits", train_size=100, epochs=1, seeds=2)
    assert [(row.seed, row.samples, row.model) for row in first] == [(0, 100, "lenet5"), (1, 100, "lenet5")]
    assert all(0 <= row.accuracy <= 1 for row in first)
    trained = []
    real = accuracy.fit
    monkeypatch.setattr(accuracy, "fit", lambda *args: trained.append(args) or real(*args))
    again = reproduce_accuracy(tmp_path, data="digits", train_size=100, epochs=1, seeds=3)
    assert again[:2] == first
    assert len(trained) == 1  # the third seed only
    longer = reproduce_accuracy(tmp_path, data="digits", train_size=100, epochs=2, seeds=1)
    assert len(trained) == 2
    assert longer[0].epochs == 2
