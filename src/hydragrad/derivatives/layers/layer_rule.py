"""One layer's rules as a value: how its per-sample derivatives follow from its input and the gradient at its output.

Where samples are not coupled, the gradient of sample i's loss with respect to a layer's parameters needs only the
layer's input x_i and the gradient delta_i that arrives at its output: for y = W x it is delta_i x_i'. Both rules of a
parameter are made of these two.

Legend of this folder: n sample, s position (of a sequence, an image), i input feature, o output feature, q query;
`x` the input of the layer, `delta` the gradient that arrives at its output, `direction` the part of a direction G
that belongs to the parameter, with a leading q.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class ParameterRule:
    """The two rules of one parameter.

    Attributes:
        gradients: (layer, x, delta) to the per-sample gradients, (n, *parameter.shape).
        dots: (layer, x, delta, direction) to <G, gradient of sample n>, (q, n), without forming a gradient where
            that is cheaper.
        factors: Where every gradient is a sum of outer products over positions, their factors: (x, delta) to
            (n, s, i) and (n, s, o), from which a projection is made without forming the gradient.
    """

    gradients: Callable[[Any, Tensor, Tensor], Tensor]
    dots: Callable[[Any, Tensor, Tensor, Tensor], Tensor]
    factors: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None


def _input_itself(_layer: Any, input: Tensor) -> Tensor:
    """The layer's input as it is."""
    return input


def _always(_layer: Any) -> bool:
    """The rules hold whatever the layer's options are."""
    return True


@dataclass(frozen=True, kw_only=True)
class LayerRule:
    """The rules of all parameters of some torch classes.

    Attributes:
        layers: The torch classes. Exact classes only: a subclass may compute something else.
        parameters: The layer's own name of a parameter to its rules.
        applies: Whether the rules hold for a layer with its options.
        rule_input: (layer, input of the whole batch) to the `x` of the rules, before samples are selected.
    """

    layers: tuple[type[nn.Module], ...]
    parameters: Mapping[str, ParameterRule]
    applies: Callable[[Any], bool] = _always
    rule_input: Callable[[Any, Tensor], Tensor] = _input_itself
