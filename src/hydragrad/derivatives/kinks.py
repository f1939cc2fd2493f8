"""Operations whose derivative jumps, found in the graph of a loss: where they are, a run is only piecewise smooth."""

from typing import Any

from torch import Tensor

KINKED = {
    "ReluBackward0": "ReLU",
    "LeakyReluBackward0": "leaky ReLU",
    "PreluKernelBackward0": "PReLU",
    "RreluWithNoiseBackward0": "RReLU",
    "HardtanhBackward0": "hardtanh",
    "HardsigmoidBackward0": "hardsigmoid",
    "HardswishBackward0": "hardswish",
    "ThresholdBackward0": "threshold",
    "ClampBackward0": "clamp",
    "ClampBackward1": "clamp",
    "AbsBackward0": "absolute value",
    "MaximumBackward0": "maximum",
    "MinimumBackward0": "minimum",
    "MaxBackward0": "maximum",
    "AmaxBackward0": "maximum",
    "MaxPool1DWithIndicesBackward0": "max-pooling",
    "MaxPool2DWithIndicesBackward0": "max-pooling",
    "MaxPool3DWithIndicesBackward0": "max-pooling",
    "AdaptiveMaxPool2DBackward0": "max-pooling",
    "MkldnnMaxPool2DBackward0": "max-pooling",
}
"""Names of nodes of torch's autograd graph, and what a person calls them."""


def kinks(output: Tensor) -> list[str]:
    """What kinks the graph behind `output` holds, each kind once, in alphabetical order."""
    found: set[str] = set()
    seen: set[Any] = set()
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = KINKED.get(node.name())
        if name is not None:
            found.add(name)
        waiting += [before for before, _ in node.next_functions]
    return sorted(found)
