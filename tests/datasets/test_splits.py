"""Normalisation and its inverse."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from hydragrad.datasets.splits import Splits, normalised
from hydragrad.errors import DataError

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


def splits(channels: int) -> Splits:
    part = TensorDataset(torch.zeros(1, channels, 2, 2), torch.zeros(1, dtype=torch.int64))
    mean, std = MEAN[:channels], STD[:channels]
    first = torch.zeros(1, dtype=torch.int64)
    return Splits(
        name="toy", train=part, validation=part, test=part, positions=first, classes=("a",), mean=mean, std=std
    )


def every_level(channels: int) -> np.ndarray:
    return np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(channels, axis=1)


def test_normalised_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    images = normalised(every_level(3), MEAN, STD)
    assert images.dtype == torch.float32
    expected = (every_level(3) / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    np.testing.assert_allclose(images.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_normalised_accepts_read_only_pixels_and_does_not_change_them() -> None:
    pixels = every_level(1)
    pixels.flags.writeable = False
    assert normalised(pixels, MEAN[:1], STD[:1]).shape == (1, 1, 16, 16)
    assert np.array_equal(pixels, every_level(1))


def test_picture_restores_every_grey_level() -> None:
    picture = splits(1).picture(normalised(every_level(1), MEAN[:1], STD[:1])[0])
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, every_level(1)[0, 0])


def test_picture_has_the_colours_last() -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (1, 3, 4, 5)).astype(np.uint8)
    picture = splits(3).picture(normalised(pixels, MEAN, STD)[0])
    assert np.array_equal(picture, pixels[0].transpose(1, 2, 0))


def test_picture_clips_values_out_of_range() -> None:
    assert set(splits(1).picture(torch.tensor([[[-100.0, 100.0]]])).ravel()) == {0, 255}


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (3, 4, 4), (4, 4)])
def test_picture_refuses_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        DataError, match=r"of toy must have shape \(1, height, width\), got .*Pass one image, not a batch"
    ):
        splits(1).picture(torch.zeros(shape))
