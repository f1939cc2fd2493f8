"""How the data sets known by name are trained: the paper's settings.

Source: Chen et al. 2021, section 4.1; augmentation as in the authors' public code. Digits are ours.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from hydragrad.training import random_crop, random_flip


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One data set's training.

    Attributes:
        epochs: Passes over the data.
        lr: Initial rate.
        milestones: Epochs at which the rate falls to a tenth.
        plateau_factor: Or: the factor by which it falls when training plus validation loss stands still.
        augment: Random change of a batch of images.
    """

    epochs: int
    lr: float
    milestones: tuple[int, ...] = ()
    plateau_factor: float | None = None
    momentum: float = 0.9
    weight_decay: float = 2e-5
    augment: Callable[[Tensor], Tensor] | None = None


def _crop_and_flip(images: Tensor) -> Tensor:
    return random_flip(random_crop(images))


RECIPES: dict[str, Recipe] = {
    "mnist": Recipe(epochs=20, lr=0.01, milestones=(5,)),
    "fashion": Recipe(epochs=20, lr=0.01, plateau_factor=0.5, augment=random_flip),
    "cifar10": Recipe(epochs=150, lr=0.1, plateau_factor=0.1, weight_decay=2.5e-5, augment=_crop_and_flip),
    "digits": Recipe(epochs=30, lr=0.01),
}
