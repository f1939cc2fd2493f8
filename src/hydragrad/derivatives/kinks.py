"""Operations whose derivative jumps, in the graph of a loss: where there are any, a run is only piecewise smooth."""

from torch import Tensor

from hydragrad.derivatives.graph import nodes

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
    kinds = {KINKED_NODES.get(node.name()) for node in nodes(output)}
    return sorted(kind for kind in kinds if kind is not None)
