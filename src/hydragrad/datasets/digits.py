"""Handwritten digits, included in scikit-learn: 1,797 grey images of 8×8 pixels; no download.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
1998 (its test part).
"""

import numpy as np
from numpy.typing import NDArray

from hydragrad.datasets.published import Pixels, Published

TEST_SIZE = 500
ENLARGEMENT = 4  # 8×8 → 32×32
LEVELS = 16
MEAN = 0.3059
STD = 0.3762


def read_digits(split_seed: int) -> Published:
    """Read the digits, each pixel enlarged to 4×4; 500 images become the test part.

    Args:
        split_seed: Selects the test part; the authors published none.
    """
    from sklearn.datasets import load_digits  # slow to import

    digits = load_digits()
    images = _enlarged(digits.images)
    labels = digits.target.astype(np.int64)
    order = np.random.RandomState(split_seed).permutation(len(labels))
    train, test = order[:-TEST_SIZE], order[-TEST_SIZE:]
    return Published(
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        classes=tuple("0123456789"),
        mean=(MEAN,),
        std=(STD,),
    )


def _enlarged(images: NDArray[np.float64]) -> Pixels:
    """Levels 0 to 16, (N, 8, 8) → pixels 0 to 255, (N, 1, 32, 32)."""
    pixels = np.rint(images * (255 / LEVELS)).astype(np.uint8)
    return pixels.repeat(ENLARGEMENT, axis=1).repeat(ENLARGEMENT, axis=2)[:, None]
