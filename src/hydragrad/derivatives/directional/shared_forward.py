"""A forward-mode evaluation right after a forward pass: its layers' outputs are not computed again.

Linear and convolutional layers, y = W x + b, are linear in x and in (W, b) alike, so their tangent

    y_dot = W x_dot + (W_dot x + b_dot)

does not need y, and the tangent of a maximum is that of the entry that was the largest. So y is reused wherever the
layer had the same x with the same W. That is checked call by call, to the bit; any other call is evaluated in full.
An input without a tangent, such as the data, costs one product where torch's own rule takes two.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any, NamedTuple

import torch
import torch.autograd.forward_ad as forward_mode
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

MAX_CALLS_PER_LAYER = 4
"""Calls of one layer in one forward pass whose outputs are held for reuse."""

LAYERS_WITH_WEIGHTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class _Call(NamedTuple):
    """One call of a layer; `source` is its weight, or the indices of the largest entries."""

    x: Tensor
    y: Tensor
    source: Tensor
    versions: tuple[int, int, int]

    @classmethod
    def of(cls, x: Tensor, y: Tensor, source: Tensor) -> "_Call":
        return cls(x, y, source, (x._version, y._version, source._version))

    def untouched(self) -> bool:
        """Whether nothing was written into the tensors since the call."""
        return (self.x._version, self.y._version, self.source._version) == self.versions


class SharedForward:
    """Has the layers of `copy` reuse the outputs of the same layers of `source`.

    Args:
        source: The model that makes the forward pass; its trained layers are watched.
        copy: A copy of it that is evaluated in forward mode.

    Attributes:
        saved: Number of layer calls that were not evaluated again.
    """

    def __init__(self, source: nn.Module, copy: nn.Module) -> None:
        self.saved = 0
        self._calls: dict[nn.Module, list[_Call]] = {}
        self._handles: list[RemovableHandle] = []
        for own, other in zip(source.modules(), copy.modules(), strict=True):
            if _trained(own):
                self._watch(own, other, _weighted_call, self._weighted)
            elif type(own) is nn.MaxPool2d and not _hooked(own):
                self._watch(own, other, _pooled_call, self._pooled)

    def begin(self) -> None:
        """A forward pass of the source follows."""
        self._calls.clear()

    def remove(self) -> None:
        """Take the hooks off the source."""
        for handle in self._handles:
            handle.remove()

    def _watch(
        self,
        own: nn.Module,
        other: nn.Module,
        call_of: Callable[[Any, Tensor, Tensor], _Call | None],
        tangent_of: Callable[[Any, list[_Call], Tensor], Tensor | None],
    ) -> None:
        def caught(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            calls = self._calls.setdefault(own, [])
            if len(inputs) == 1 and isinstance(output, Tensor) and len(calls) < MAX_CALLS_PER_LAYER:
                call = call_of(layer, inputs[0].detach(), output)
                calls += [] if call is None else [call]

        def forward(layer: Any, input: Tensor) -> Tensor:
            calls = self._calls.get(own)
            if calls and torch._C._is_fwd_grad_enabled() and not _transformed(input, *layer._parameters.values()):
                dual = tangent_of(layer, calls, input)
                if dual is not None:
                    self.saved += 1
                    return dual
            output: Tensor = type(layer).forward(layer, input)
            return output

        self._handles.append(own.register_forward_hook(caught))
        other.forward = MethodType(forward, other)

    def _weighted(self, layer: Any, calls: list[_Call], input: Tensor) -> Tensor | None:
        x, x_dot = forward_mode.unpack_dual(input)
        weight, w_dot = forward_mode.unpack_dual(layer.weight)
        b_dot = None if layer.bias is None else forward_mode.unpack_dual(layer.bias).tangent
        call = _same_call(calls, x, weight)
        if call is None or (w_dot is None and (x_dot is None or b_dot is not None)):
            return None
        parts = [] if x_dot is None else [_apply(layer, x_dot, weight, None)]
        parts += [] if w_dot is None else [_apply(layer, x, w_dot, b_dot)]
        return _dual(call.y, parts[0] if len(parts) == 1 else parts[0].add_(parts[1]))

    def _pooled(self, layer: Any, calls: list[_Call], input: Tensor) -> Tensor | None:
        x, x_dot = forward_mode.unpack_dual(input)
        call = _same_call(calls, x)
        if call is None or x_dot is None:
            return None
        y_dot = x_dot.flatten(-2).gather(-1, call.source.flatten(-2))
        return _dual(call.y, y_dot.view(call.y.shape))


def _weighted_call(layer: Any, x: Tensor, y: Tensor) -> _Call:
    return _Call.of(x, y.detach(), layer.weight.detach())


def _pooled_call(layer: Any, x: Tensor, y: Tensor) -> _Call | None:
    # Saved by torch for the backward pass that follows.
    indices = getattr(y.grad_fn, "_saved_result1", None)
    return _Call.of(x, y.detach(), indices) if isinstance(indices, Tensor) and indices.shape == y.shape else None


def _trained(layer: nn.Module) -> bool:
    """A layer with a rule whose parameters are plain and all trained, so that its weight and bias have tangents."""
    parameters = [parameter for parameter in layer._parameters.values() if parameter is not None]
    plain = type(layer) in LAYERS_WITH_WEIGHTS and not _hooked(layer) and layer._parameters.get("weight") is not None
    return plain and all(parameter.requires_grad for parameter in parameters)


def _hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks or "forward" in layer.__dict__)


def _transformed(*tensors: Tensor | None) -> bool:
    """Inside a transform of torch.func, as several directions at once are: there the outputs are computed only once."""
    return any(t is not None and torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors)


def _same_call(calls: list[_Call], x: Tensor, weight: Tensor | None = None) -> _Call | None:
    for call in calls:
        if call.untouched() and (weight is None or _same(call.source, weight)) and _same(call.x, x):
            return call
    return None


def _dual(value: Tensor, tangent: Tensor) -> Tensor:
    dual: Tensor = forward_mode.make_dual(value, tangent)
    return dual


def _apply(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    result: Tensor = layer._conv_forward(x, weight, bias)
    return result


def _same(one: Tensor, other: Tensor) -> bool:
    if one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride():
        return True
    return torch.equal(one, other)
