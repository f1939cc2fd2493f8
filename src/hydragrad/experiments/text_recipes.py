"""How the texts known by name are trained: AdamW, warm-up and cosine, clipping.

Source: A. Karpathy's nanoGPT (its small character model), with the second beta, decay and rates of its TinyShakespeare
configuration. With SGD, the rate is ours.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset

from hydragrad.datasets import TextSplits
from hydragrad.datasets.sequences import PADDING
from hydragrad.derivatives import chunked_cross_entropy, loss_of_parts
from hydragrad.experiments.recipes import OptimizerName, Start
from hydragrad.models import TEXT_MODELS
from hydragrad.replay import fetch

AT_ONCE = 250
"""Sequences that are evaluated at the same time."""

LARGE_VOCABULARY = 4096
"""From so many tokens on, the logits of a batch are not held all at once."""


@dataclass(frozen=True, kw_only=True)
class TextRecipe:
    """One text's training.

    Attributes:
        epochs: Passes over the data.
        batch_size: Sequences of a batch.
        lr, betas, weight_decay: Of AdamW; only matrices decay.
        sgd_lr, sgd_momentum: Of SGD in place of AdamW; nothing decays.
        clip_norm: L2 norm that a step's gradient is clipped to.
        warm_up: Share of the steps in which the rate rises.
        floor: Share of the rate that is left at the last step.
    """

    epochs: int
    batch_size: int = 32
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.1
    sgd_lr: float = 0.1
    sgd_momentum: float = 0.9
    clip_norm: float = 1.0
    warm_up: float = 0.1
    floor: float = 0.1


TEXT_RECIPES: dict[str, TextRecipe] = {"names": TextRecipe(epochs=2), "shakespeare": TextRecipe(epochs=2)}


def fresh_text_model(
    splits: TextSplits,
    model: str,
    *,
    seed: int,
    steps: int,
    sizes: Mapping[str, Any],
    optimizer: OptimizerName = "adamw",
    lr: float | None = None,
    device: str = "cpu",
) -> Start:
    """Initialise a model for a text, with the optimizer and schedule of its recipe.

    Args:
        splits: The text.
        model: Name of the model.
        seed: Of the initialisation.
        steps: Of the whole training, over which the rate rises and falls.
        sizes: Options of the model.
        optimizer: adamw, or sgd.
        lr: Highest rate; the recipe's if None.
        device: cpu or cuda.
    """
    recipe = TEXT_RECIPES[splits.name]
    torch.manual_seed(seed)
    built = TEXT_MODELS[model](vocabulary=len(splits.tokenizer), block_size=splits.length, **sizes).to(device)
    chosen = _optimizer(optimizer, built, recipe, lr)
    return Start(
        model=built,
        optimizer=chosen,
        scheduler=LambdaLR(chosen, warm_up_and_cosine(steps, recipe)),
        scheduler_every="step",
    )


def warm_up_and_cosine(steps: int, recipe: TextRecipe) -> Callable[[int], float]:
    """Return the factor of the rate at each step: up in a line, then down along half a cosine."""
    rising = math.ceil(recipe.warm_up * steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        done = min(1.0, (step - rising) / max(1, steps - 1 - rising))
        return recipe.floor + (1 - recipe.floor) * (1 + math.cos(math.pi * done)) / 2

    return factor


def _optimizer(name: OptimizerName, model: nn.Module, recipe: TextRecipe, lr: float | None) -> Optimizer:
    if name == "sgd":
        return SGD(model.parameters(), lr=recipe.sgd_lr if lr is None else lr, momentum=recipe.sgd_momentum)
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=recipe.lr if lr is None else lr, betas=recipe.betas)


def next_token_losses(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every token, (batch, length), in nats; and which are tokens rather than padding."""
    tokens, following = batch
    head = getattr(model, "head", None)
    if head is None or head.weight.shape[0] < LARGE_VOCABULARY:
        return _token_losses(model(tokens), following)
    losses = chunked_cross_entropy(model(tokens, head=False), head.weight, following, ignore_index=PADDING)
    return losses, following != PADDING


next_token_loss = loss_of_parts(next_token_losses)
"""Mean cross-entropy of the tokens of each sequence, one number a sequence, in nats a token.

For blocks of one length this is nanoGPT's loss. Of sequences of different lengths each counts the same, however long it
is: a batch's loss is their mean, and so a sequence's weight does not depend on the others in its batch.
"""


def _token_losses(logits: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
    losses = F.cross_entropy(logits.flatten(0, 1), following.flatten(), ignore_index=PADDING, reduction="none")
    return losses.view_as(following), following != PADDING


def loss_and_next_token_accuracy(model: nn.Module, dataset: Dataset[Any]) -> tuple[float, float]:
    """Return the mean loss of sequences, and the share of their tokens that the model predicts rightly.

    The model is evaluated in eval mode; its mode is restored afterwards.
    """
    length = len(dataset)  # type: ignore[arg-type]
    device = next(model.parameters()).device
    training, total, right, count = model.training, 0.0, 0, 0
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, length, AT_ONCE):
                indices = range(start, min(start + AT_ONCE, length))
                tokens, following = fetch(dataset, indices, seed=0, collate=None, device=device)
                logits = model(tokens)
                losses, is_token = _token_losses(logits, following)
                total += float((losses.sum(1) / is_token.sum(1)).double().sum())
                right += int((logits.argmax(2) == following).sum())
                count += int(is_token.sum())
    finally:
        model.train(training)
    return total / length, right / count
