"""How the data sets known by name are trained: the paper's settings.

Source: Chen et al. 2021, section 4.1; augmentation as in the authors' public code. Digits are ours, and so are the rate
and weight decay of AdamW, which the paper does not use.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau

from hydragrad.datasets import Splits
from hydragrad.derivatives import PerSampleLoss
from hydragrad.models import build
from hydragrad.training import augmented, random_crop, random_flip

OptimizerName = Literal["sgd", "adamw"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One data set's training.

    Attributes:
        epochs: Passes over the data.
        lr: Initial rate of SGD.
        milestones: Epochs at which the rate falls to a tenth.
        plateau_factor: Or: the factor by which it falls when training plus validation loss stops falling.
        momentum, weight_decay: Of SGD.
        adamw_lr, adamw_weight_decay: Of AdamW in place of SGD; the rate falls as that of SGD does.
        augment: Random change of a batch of images.
    """

    epochs: int
    lr: float
    milestones: tuple[int, ...] = ()
    plateau_factor: float | None = None
    momentum: float = 0.9
    weight_decay: float = 2e-5
    adamw_lr: float = 1e-3
    adamw_weight_decay: float = 1e-2
    augment: Callable[[Tensor], Tensor] | None = None


def _crop_and_flip(images: Tensor) -> Tensor:
    return random_flip(random_crop(images))


RECIPES: dict[str, Recipe] = {
    "mnist": Recipe(epochs=20, lr=0.01, milestones=(5,)),
    "fashion": Recipe(epochs=20, lr=0.01, plateau_factor=0.5, augment=random_flip),
    "cifar10": Recipe(epochs=150, lr=0.1, plateau_factor=0.1, weight_decay=2.5e-5, augment=_crop_and_flip),
    "digits": Recipe(epochs=30, lr=0.01),
}


@dataclass(frozen=True, kw_only=True)
class Start:
    """A freshly initialised model with its optimizer and schedule."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: Any = None
    scheduler_metric: str | None = None
    scheduler_every: Literal["epoch", "step"] = "epoch"


def fresh(
    splits: Splits,
    model: str,
    *,
    seed: int,
    optimizer: OptimizerName = "sgd",
    lr: float | None = None,
    device: str = "cpu",
) -> Start:
    """Initialise a model for a data set, with the optimizer and schedule of its recipe.

    Args:
        splits: The data set.
        model: Name of the model.
        seed: Of the initialisation.
        optimizer: sgd, as in the paper, or adamw.
        lr: Initial rate; the recipe's if None.
        device: cpu or cuda.
    """
    recipe = RECIPES[splits.name]
    torch.manual_seed(seed)
    built = build(model, channels=splits.train.tensors[0].shape[1], classes=len(splits.classes)).to(device)
    torch_optimizer = _optimizer(optimizer, built, recipe, lr)
    if recipe.plateau_factor is not None:
        # torch lowers the rate at the first bad epoch past `patience`: two bad epochs are a patience of 1.
        plateau = ReduceLROnPlateau(torch_optimizer, factor=recipe.plateau_factor, patience=1, threshold=1e-4)
        metric = "train_loss + validation_loss"
        return Start(model=built, optimizer=torch_optimizer, scheduler=plateau, scheduler_metric=metric)
    scheduler = MultiStepLR(torch_optimizer, list(recipe.milestones), gamma=0.1)
    return Start(model=built, optimizer=torch_optimizer, scheduler=scheduler)


def _optimizer(name: OptimizerName, model: nn.Module, recipe: Recipe, lr: float | None) -> Optimizer:
    if name == "adamw":
        rate = recipe.adamw_lr if lr is None else lr
        return AdamW(model.parameters(), lr=rate, weight_decay=recipe.adamw_weight_decay)
    rate = recipe.lr if lr is None else lr
    return SGD(model.parameters(), lr=rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def recipe_loss(data: str) -> PerSampleLoss:
    """Cross-entropy, with the data set's augmentation while training."""
    transform = RECIPES[data].augment
    return (
        cross_entropy if transform is None else augmented(cross_entropy, lambda batch: [transform(batch[0]), batch[1]])
    )


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy, one number a sample, in nats."""
    images, labels = batch
    return F.cross_entropy(model(images), labels, reduction="none")
