"""What optimizers begin a step with: the gradient with its sign and the weight decay, and the mean of its square."""

from typing import Any

from torch import Tensor


def decayed(w: Tensor, g: Tensor, options: Any) -> Tensor:
    """The gradient that a step uses: turned where it goes up, with the weight decay unless that is decoupled."""
    g = -g if options.maximize else g
    return g if getattr(options, "decoupled", False) else g + options.weight_decay * w


def mean_square(before: Tensor, g: Tensor, decay: float) -> Tensor:
    """The fading mean of squares after a step."""
    return decay * before + (1 - decay) * g * g
