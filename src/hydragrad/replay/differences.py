"""How far two numbers, or the tensors of two checkpoints, are apart."""

import math
from collections.abc import Mapping

from torch import Tensor

from hydragrad.runs.checkpoints import Checkpoint

Parts = dict[str, dict[str, Tensor]]
"""What is compared of a checkpoint: weights, buffers, and each kind of optimizer state, by name."""


def relative(given: float, expected: float) -> float:
    """Relative difference of two numbers; 0 only where they are equal, or both are NaN."""
    if given == expected or (math.isnan(given) and math.isnan(expected)):
        return 0.0
    return abs(given - expected) / max(abs(expected), 1e-300)


def parts_of(checkpoint: Checkpoint) -> Parts:
    """A checkpoint's floating tensors, by part and name; the optimizer's counters are left out."""
    parts: Parts = {"weights": dict(checkpoint.parameters), "buffers": dict(checkpoint.buffers)}
    for name, entries in checkpoint.optimizer.items():
        for key, value in entries.items():
            if isinstance(value, Tensor) and value.dim():
                parts.setdefault(f"the optimizer's {key}", {})[name] = value
    return {
        part: {name: value for name, value in values.items() if value.is_floating_point()}
        for part, values in parts.items()
    }


def relative_differences(given: Parts, expected: Parts) -> dict[str, float]:
    """Relative L2 distance of each part; infinite where only one has it."""
    return {
        part: relative_difference(given[part], values) if given.get(part, {}).keys() == values.keys() else math.inf
        for part, values in expected.items()
    }


def relative_difference(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Relative L2 distance of two sets of named tensors; 0 only where they are equal to the bit."""
    distance = scale = 0.0
    for name, value in expected.items():
        value = value.double().cpu()
        distance += float((given[name].double().cpu() - value).square().sum())
        scale += float(value.square().sum())
    return math.sqrt(distance / scale) if scale > 0 else math.sqrt(distance)
