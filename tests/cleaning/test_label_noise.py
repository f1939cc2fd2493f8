"""Planted label noise: the protocol's counts, uniformly drawn different labels, kept with the run."""

import pytest
import torch

from hydragrad.cleaning import flip_labels, load_labels, save_labels
from hydragrad.errors import DataError

LABELS = torch.arange(7).repeat_interleave(torch.tensor([10, 20, 30, 40, 50, 60, 71]))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_each_class_loses_the_floor_of_its_share(share):
    labels = flip_labels(LABELS, share, classes=7, seed=3)
    for label in range(7):
        members = labels.true == label
        assert int(labels.flipped[members].sum()) == int(share * int(members.sum()))
    assert torch.equal(labels.true, LABELS)


def test_flips_are_uniform_over_the_other_labels():
    many = torch.zeros(60_000, dtype=torch.int64)
    given = flip_labels(many, 1.0, classes=4, seed=0).given
    counts = torch.bincount(given, minlength=4)
    assert counts[0] == 0
    assert (counts[1:] - 20_000).abs().max() < 500  # four standard deviations


def test_the_seed_decides():
    first, again, other = (flip_labels(LABELS, 0.5, classes=7, seed=seed).given for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_labels_are_kept_with_the_run(tmp_path):
    labels = flip_labels(LABELS, 0.3, classes=7, seed=0)
    assert load_labels(tmp_path / "run") is None
    save_labels(tmp_path / "run", labels)
    found = load_labels(tmp_path / "run")
    assert torch.equal(found.given, labels.given)
    assert torch.equal(found.true, labels.true)


@pytest.mark.parametrize(("share", "classes", "message"), [(1.5, 7, "between 0 and 1"), (0.5, 5, "must be 0 to 4")])
def test_what_cannot_be_flipped_is_refused(share, classes, message):
    with pytest.raises(DataError, match=message):
        flip_labels(LABELS, share, classes=classes, seed=0)
