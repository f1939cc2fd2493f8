"""Whether the samples of a batch are coupled: whether a sample's loss depends on other samples' rows.

Rules of layers and hooks need samples that are not coupled, at every step. Two things show it. The graph of the losses:
operations that are known to keep rows apart couple nothing, whatever they get. And a measurement, one backward pass of
the losses with random weights s_i: its gradient along u is sum_i s_i <g_i, u> for the true g_i of every sample.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hydragrad.derivatives.graph import BY_DIMENSION, Kind, KindWatch, kind_of_graph, nodes

KEEP_ROWS = frozenset(
    [
        "AccumulateGrad",
        "AddBackward0",
        "AddBackward1",
        "AddmmBackward0",
        "SubBackward0",
        "SubBackward1",
        "RsubBackward1",
        "MulBackward0",
        "MulBackward1",
        "DivBackward0",
        "DivBackward1",
        "NegBackward0",
        "ReluBackward0",
        "LeakyReluBackward0",
        "EluBackward0",
        "GeluBackward0",
        "SiluBackward0",
        "MishBackward0",
        "TanhBackward0",
        "SigmoidBackward0",
        "SoftplusBackward0",
        "HardtanhBackward0",
        "HardsigmoidBackward0",
        "HardswishBackward0",
        "ClampBackward0",
        "ClampBackward1",
        "PreluKernelBackward0",
        "ExpBackward0",
        "LogBackward0",
        "Log1PBackward0",
        "SqrtBackward0",
        "RsqrtBackward0",
        "PowBackward0",
        "PowBackward1",
        "AbsBackward0",
        "SinBackward0",
        "CosBackward0",
        "SquareBackward0",
        "ConvolutionBackward0",
        "MkldnnConvolutionBackward0",
        "MaxPool2DWithIndicesBackward0",
        "MkldnnMaxPool2DBackward0",
        "MaxPool3DWithIndicesBackward0",
        "AvgPool2DBackward0",
        "AvgPool3DBackward0",
        "AdaptiveAvgPool2DBackward0",
        "AdaptiveMaxPool2DBackward0",
        "MkldnnAdaptiveAvgPool2DBackward0",
        "UpsampleNearest2DBackward0",
        "NativeLayerNormBackward0",
        "NativeGroupNormBackward0",
        "EmbeddingBackward0",
        "NativeDropoutBackward0",
        "NllLossBackward0",
        "NllLoss2DBackward0",
        "BinaryCrossEntropyWithLogitsBackward0",
        "BinaryCrossEntropyBackward0",
        "MseLossBackward0",
        "SmoothL1LossBackward0",
        "HuberLossBackward0",
        "ScaledDotProductFlashAttentionForCpuBackward0",
        "BmmBackward0",
        "ViewBackward0",
        "UnsafeViewBackward0",
        "ReshapeAliasBackward0",
        "CloneBackward0",
        "AliasBackward0",
        "ToCopyBackward0",
        "ContiguousBackward0",
        "ConstantPadNdBackward0",
        "TBackward0",
        "MaskedFillBackward0",
    ]
)
"""Nodes that never add one row to another, given that their input's first dimension is the samples'."""


def may_couple(losses: Tensor) -> bool:
    """Whether some operation behind losses, (batch,), is not known to keep the samples apart."""
    return not all(_keeps_rows(node) for node in nodes(losses))


class CouplingWatch:
    """Decides at which steps coupling is measured: the first of every kind of graph, random ones over the whole run,
    and all whose graph has an operation that may couple."""

    def __init__(self) -> None:
        self._kinds = KindWatch()
        self._may_couple: dict[Kind, bool] = {}

    def wants(self, step: int, losses: Tensor) -> bool:
        """Whether to measure at a step with these losses."""
        kind = kind_of_graph(losses)
        wanted = self._kinds.wants(step, kind)
        if kind not in self._may_couple:
            self._may_couple[kind] = may_couple(losses)
        return wanted or self._may_couple[kind]

    def draws(self, step: int) -> bool:
        """Whether a step is one of the random ones."""
        return self._kinds.draws(step)


def random_weights(like: Tensor, seed: int) -> Tensor:
    """Weights of single samples, that a coupling would mix up, (batch,)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def weighted_gradients(losses: Tensor, weights: Tensor, parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradients of the weighted sum of losses; the graph is kept for the backward pass that follows."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = torch.autograd.grad(losses, trained, weights, retain_graph=True, allow_unused=True)
    by_parameter = dict(zip(map(id, trained), gradients, strict=True))
    return [by_parameter.get(id(parameter)) for parameter in parameters]


def _keeps_rows(node: Any) -> bool:
    name = _name(node)
    if name == "MmBackward0":
        return any(_is_parameter(before) for before, _ in node.next_functions)
    if name == "NativeBatchNormBackward0":
        return not node._saved_training
    if name in ("TransposeBackward0", "PermuteBackward0"):
        return _first_stays(node)
    if name in BY_DIMENSION:
        return _along_others(node)
    return name in KEEP_ROWS


def _is_parameter(node: Any) -> bool:
    """A leaf, or its transpose."""
    while node is not None and _name(node) == "TBackward0":
        node = node.next_functions[0][0]
    return node is None or _name(node) == "AccumulateGrad"


def _name(node: Any) -> str:
    name: str = node.name()
    return name.rsplit("::", 1)[-1]


def _first_stays(node: Any) -> bool:
    if node.name() == "PermuteBackward0":
        return bool(node._saved_dims[0] == 0)
    return 0 not in (node._saved_dim0, node._saved_dim1) and not _negative(node._saved_dim0, node._saved_dim1)


def _along_others(node: Any) -> bool:
    dims = getattr(node, "_saved_dim", None)
    if dims is None:
        return False
    listed = list(dims) if isinstance(dims, tuple | list) else [dims]
    return bool(listed) and 0 not in listed and not _far_back(node, listed)


def _far_back(node: Any, dims: Sequence[int]) -> bool:
    """Whether a dimension counted from the end may be the first one."""
    behind = [1 + (-1 - _signed(dim)) for dim in dims if _negative(dim)]
    if not behind:
        return False
    sizes = getattr(node, "_saved_self_sym_sizes", None)
    result = getattr(node, "_saved_result", None)
    if sizes is None and isinstance(result, Tensor):
        sizes = result.shape
    if sizes is None:
        metadata = getattr(node, "_input_metadata", None)  # of the output of the forward pass
        sizes = metadata[0].shape if metadata else ()
    return max(behind) >= len(sizes)


def _negative(*dims: int) -> bool:
    return any(_signed(dim) < 0 for dim in dims)


def _signed(dim: int) -> int:
    """Saved dimensions are unsigned numbers of 64 bits."""
    return dim - (1 << 64) if dim >= 1 << 63 else dim
