"""The table of all layers that have rules. A new layer is a file of this folder and a line here."""

from torch import nn

from hydragrad.derivatives.layers import batch_norm, convolution, embedding, layer_norm, linear
from hydragrad.derivatives.layers.layer_rule import LayerRule

_ALL = (
    linear.RULE,
    convolution.RULE,
    embedding.RULE,
    layer_norm.RULE,
    batch_norm.RULE,
)

RULES: dict[type[nn.Module], LayerRule] = {layer: rule for rule in _ALL for layer in rule.layers}
"""Torch class to its rule."""
