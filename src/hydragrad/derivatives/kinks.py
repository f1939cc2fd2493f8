"""Operations whose derivative jumps, in the graph of a loss: where there are any, a run is only piecewise smooth."""

from typing import Any

from torch import Tensor

KINKED_NODES = {
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
"""Names of nodes of torch's autograd graph to the names that people use."""


def kinks(output: Tensor) -> list[str]:
    """List the kinds of kinks in the graph behind `output`, in alphabetical order."""
    kinds: set[str] = set()
    seen: set[Any] = set()
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = KINKED_NODES.get(node.name())
        if name is not None:
            kinds.add(name)
        waiting += [before for before, _ in node.next_functions]
    return sorted(kinds)
