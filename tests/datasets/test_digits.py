"""The digits that scikit-learn carries."""

import numpy as np
import pytest

from hydragrad.datasets.digits import MEAN, STD, read_digits
from hydragrad.datasets.loading import SPLIT_SEED


def test_every_image_is_in_one_part() -> None:
    from sklearn.datasets import load_digits

    published = read_digits(SPLIT_SEED)
    images = np.concatenate([published.train_images, published.test_images])
    enlarged = load_digits().images.repeat(4, axis=1).repeat(4, axis=2)
    expected = np.rint(enlarged * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, images)) == sorted(map(bytes, expected))
    assert len(published.test_labels) == 500


def test_labels_stay_with_their_images() -> None:
    first, second = read_digits(1), read_digits(2)
    by_image = dict(zip(map(bytes, first.train_images), first.train_labels, strict=True))
    pairs = [
        (by_image[image], label)
        for image, label in zip(map(bytes, second.test_images), second.test_labels, strict=True)
        if image in by_image
    ]
    assert len(pairs) > 300
    assert all(one == other for one, other in pairs)


def test_mean_and_deviation_are_those_of_the_training_images() -> None:
    pixels = read_digits(SPLIT_SEED).train_images / 255
    assert pixels.mean() == pytest.approx(MEAN, abs=5e-5)
    assert pixels.std() == pytest.approx(STD, abs=5e-5)
