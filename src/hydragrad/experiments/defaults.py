"""What a training of a data set known by name takes where the command line says nothing: its recipe's choices."""

from dataclasses import dataclass

from hydragrad.experiments.recipes import RECIPES, OptimizerName
from hydragrad.experiments.text_recipes import TEXT_RECIPES


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Epochs, samples of a batch, the optimizer, and the norm that gradients are clipped to, if they are."""

    epochs: int
    batch_size: int = 64
    optimizer: OptimizerName = "sgd"
    clip_norm: float | None = None


OWN = Defaults(epochs=10)
"""Of a user's own function."""


def defaults_of(data: str) -> Defaults:
    """Return the defaults of a data set by its name."""
    if data in TEXT_RECIPES:
        recipe = TEXT_RECIPES[data]
        return Defaults(
            epochs=recipe.epochs, batch_size=recipe.batch_size, optimizer="adamw", clip_norm=recipe.clip_norm
        )
    return Defaults(epochs=RECIPES[data].epochs)
