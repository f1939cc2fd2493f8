"""The three parts of a data set, ready to train on."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from hydragrad.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A data set in three parts.

    Each part is a TensorDataset of normalised images, float32 (N, C, 32, 32), and labels, int64 (N,).

    Attributes:
        name: Its name on the command line.
        train: The training part.
        validation: A part of the published training set, held out.
        test: The published test set (for digits, a part that we hold out).
        positions: Position of each training image among the published training images, int64 (N,).
        classes: Name of each label.
        mean: Mean of each channel, on the scale where white is 1; subtracted from the images.
        std: Standard deviation of each channel, on the same scale; the images were divided by it.
    """

    name: str
    train: TensorDataset
    validation: TensorDataset
    test: TensorDataset
    positions: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def picture(self, image: Tensor) -> NDArray[np.uint8]:
        """Undo the normalisation of one image.

        Args:
            image: Normalised, float (C, H, W).

        Returns:
            uint8 (H, W) for one channel, uint8 (H, W, 3) for three. Pixels of the data set are restored exactly.

        Raises:
            DataError: The image has another shape.
        """
        channels = len(self.mean)
        if image.ndim != 3 or image.shape[0] != channels:
            raise DataError(
                f"An image of {self.name} must have shape ({channels}, height, width), got {tuple(image.shape)}. "
                f"Pass one image, not a batch."
            )
        mean, std = per_channel(self.mean), per_channel(self.std)
        levels = (image.detach().cpu() * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)
        pixels: NDArray[np.uint8] = levels.permute(1, 2, 0).contiguous().numpy()
        return pixels[:, :, 0] if channels == 1 else pixels


def normalised(pixels: NDArray[np.uint8], mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Turn pixels into the input of a network.

    Args:
        pixels: uint8 (N, C, H, W).
        mean: Mean of each channel, on the scale where 255 is 1.
        std: Standard deviation of each channel, on the same scale.

    Returns:
        (pixels / 255 − mean) / std, float32 (N, C, H, W).
    """
    scaled = torch.tensor(pixels, dtype=torch.float32).div_(255)
    return scaled.sub_(per_channel(mean)).div_(per_channel(std))


def per_channel(values: tuple[float, ...]) -> Tensor:
    """Return values per channel as float32 (C, 1, 1), to broadcast over images."""
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
