"""Noise: what each kind makes wrong, and that it makes nothing else wrong."""

import pytest
import torch
from sklearn.model_selection import KFold

from hydragrad.datasets import load
from hydragrad.errors import DataError
from studies.noise import COPIES, SIMILAR, make_noisy

PAIRS = {frozenset(pair) for pair in SIMILAR["digits"]}


@pytest.fixture(scope="module")
def splits():
    return load("digits", train_size=500)


def pairs_of(noisy):
    changed = noisy.labels.flipped.nonzero().flatten().tolist()
    return [frozenset((int(noisy.labels.given[i]), int(noisy.labels.true[i]))) for i in changed]


@pytest.mark.parametrize("kind", ["swap-0.2", "cluster-0.2"])
def test_similar_classes_are_taken_for_each_other(splits, kind):
    noisy = make_noisy(splits, kind, seed=0)
    found = pairs_of(noisy)
    assert 80 < len(found) <= 100
    assert set(found) <= PAIRS
    assert torch.equal(noisy.train.tensors[0], splits.train.tensors[0])


def spread(noisy):
    images, flipped = noisy.train.tensors[0].flatten(1), noisy.labels.flipped
    members = [images[flipped & (noisy.labels.true == label)] for label in range(10)]
    return sum(float(torch.cdist(each, each).mean()) for each in members)


def test_clusters_lie_closer_together_than_random_swaps(splits):
    cluster, swap = (make_noisy(splits, kind, seed=0) for kind in ("cluster-0.2", "swap-0.2"))
    assert spread(cluster) < 0.9 * spread(swap)


def test_copies_share_image_and_wrong_label(splits):
    noisy = make_noisy(splits, "copies-0.1", seed=0)
    images, given = noisy.train.tensors
    wrong = noisy.labels.flipped.nonzero().flatten()
    assert len(wrong) == 50
    distinct, counts = torch.unique(images[wrong].flatten(1), dim=0, return_counts=True)
    assert len(distinct) == 50 // COPIES
    assert (counts % COPIES == 0).all()
    right = ~noisy.labels.flipped
    assert torch.equal(images[right], splits.train.tensors[0][right])
    assert torch.equal(given[right], splits.train.tensors[1][right])


def test_copies_are_spread_over_the_folds(splits):
    flipped = make_noisy(splits, "copies-0.1", seed=0).labels.flipped
    for _, part in KFold(2, shuffle=True, random_state=0).split(flipped):
        assert 0.3 < flipped[part].sum() / flipped.sum() < 0.7


def test_patched_images_are_labelled_0_in_training_and_rightly_in_validation(splits):
    noisy = make_noisy(splits, "patch-0.1", seed=0)
    changed = (noisy.train.tensors[0] != splits.train.tensors[0]).flatten(1).any(1)
    assert torch.equal(changed, noisy.labels.flipped)
    assert int(changed.sum()) == 50
    assert (noisy.labels.given[changed] == 0).all()
    held_out = (noisy.validation.tensors[0] != splits.validation.tensors[0]).flatten(1).any(1)
    assert int(held_out.sum()) == int(0.1 * len(splits.validation))
    assert torch.equal(noisy.validation.tensors[1], splits.validation.tensors[1])


def test_validation_labels_can_be_noisy_too(splits):
    noisy = make_noisy(splits, "0.2", seed=0, validation_noise=0.3)
    share = (noisy.validation.tensors[1] != splits.validation.tensors[1]).double().mean()
    assert 0.25 < share <= 0.3


@pytest.mark.parametrize("kind", ["lots", "swap-much", "bent-0.1", "human-worst"])
def test_unknown_noise_is_refused(splits, kind):
    with pytest.raises(DataError, match=r"swap-0\.3"):
        make_noisy(splits, kind, seed=0)
