"""A data set as its authors published it: integer pixels, a training and a test part."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Published:
    """Decoded files of a data set.

    Attributes:
        train_images: uint8 (N, C, 32, 32).
        train_labels: int64 (N,).
        test_images: uint8 (M, C, 32, 32).
        test_labels: int64 (M,).
        classes: Name of each label.
        mean: Mean of each channel over the published training images, on the scale where 255 is 1.
        std: Standard deviation of each channel, likewise.
    """

    train_images: Pixels
    train_labels: Labels
    test_images: Pixels
    test_labels: Labels
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
