"""BatchNorm as derivatives need it: as an explicit formula, or with the batch's statistics as constants.

torch's native kernel neither differentiates with respect to the running statistics nor carries a derivative
into their update. During a curvature sweep the private copy of the model uses an explicit formula instead; the
trajectory itself is always replayed with the user's own kernels. With frozen statistics the samples of a batch are
not coupled: each has the same outputs as in training, and a gradient of its own.

Source: Ioffe and Szegedy 2015, algorithm 1; update rule of torch.nn.BatchNorm (unbiased running variance).
"""

from collections.abc import Callable
from types import MethodType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

BatchStatistics = Literal["exact", "frozen"]
"""Whether a sample's gradient follows the batch's statistics, or takes them as constants."""


def use_explicit_batch_norm(model: nn.Module) -> None:
    """Give every BatchNorm layer of `model` the explicit forward, in place."""
    _replace(model, _explicit_forward, _explicitly)


def use_frozen_statistics(model: nn.Module) -> None:
    """Have every BatchNorm layer of `model` take its batch's statistics as constants, in place."""
    _replace(model, _frozen_forward, _frozen)


def _replace(model: nn.Module, forward: Callable[..., Tensor], function: Callable[..., Tensor]) -> None:
    """Give stock layers another forward, and layers with a forward of their own another `F.batch_norm` inside it."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            stock = type(module).forward is _BatchNorm.forward
            module.forward = MethodType(forward if stock else _inside(function), module)  # type: ignore[method-assign]


def _inside(function: Callable[..., Tensor]) -> Callable[..., Any]:
    def forward(layer: _BatchNorm, *args: Any, **kwargs: Any) -> Any:
        with _InPlaceOfBatchNorm(function):
            return type(layer).forward(layer, *args, **kwargs)

    forward.replaced_by = function  # type: ignore[attr-defined]
    return forward


class _InPlaceOfBatchNorm(TorchFunctionMode):
    """Another function is called in place of `F.batch_norm`."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self._function = function

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (self._function if func is F.batch_norm else func)(*args, **(kwargs or {}))


def running_statistics(model: nn.Module) -> set[str]:
    """Names of the buffers that BatchNorm layers update and that carry a derivative."""
    names = set()
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            names |= {f"{prefix}.{own}".lstrip(".") for own in ("running_mean", "running_var")}
    return names & {name for name, _ in model.named_buffers()}


def normalises_batches(model: nn.Module) -> bool:
    """True where the model has BatchNorm layers, whatever their mode now."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def batch_coupled(model: nn.Module) -> bool:
    """True where a BatchNorm layer that normalises by its batch couples the samples."""
    return any(
        isinstance(module, _BatchNorm) and _uses_batch(module) and not _takes_frozen(module)
        for module in model.modules()
    )


def _takes_frozen(module: _BatchNorm) -> bool:
    forward = getattr(module.forward, "__func__", None)
    return forward is _frozen_forward or getattr(forward, "replaced_by", None) is _frozen


def standardised(layer: _BatchNorm, input: Tensor) -> Tensor:
    """What the layer multiplies by its weight; `input` is the whole batch."""
    return F.batch_norm(input, *_statistics(layer, input), training=False, eps=layer.eps)


def _explicit_forward(layer: _BatchNorm, input: Tensor) -> Tensor:
    over = [0, *range(2, input.dim())]
    if _uses_batch(layer):
        mean = input.mean(over)
        variance = (input - _per_channel(mean, input)).square().mean(over)
        if layer.training and layer.track_running_stats:
            _update_running(layer, mean, variance, input.numel() // input.shape[1])
    else:
        assert layer.running_mean is not None and layer.running_var is not None
        mean, variance = layer.running_mean, layer.running_var
    scale = torch.rsqrt(variance + layer.eps)
    if layer.weight is not None:
        scale = scale * layer.weight
    output = (input - _per_channel(mean, input)) * _per_channel(scale, input)
    return output if layer.bias is None else output + _per_channel(layer.bias, input)


def _explicitly(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` as a formula; the update of the running statistics carries a derivative."""
    mean, variance = running_mean, running_var
    if training:
        over = [0, *range(2, input.dim())]
        mean = input.mean(over)
        variance = (input - _per_channel(mean, input)).square().mean(over)
    assert mean is not None and variance is not None
    if training and running_mean is not None and running_var is not None:
        count = input.numel() // input.shape[1]
        running_mean.copy_((1 - momentum) * running_mean + momentum * mean)
        running_var.copy_((1 - momentum) * running_var + momentum * variance * (count / (count - 1)))
    output = (input - _per_channel(mean, input)) * _per_channel(torch.rsqrt(variance + eps), input)
    output = output if weight is None else output * _per_channel(weight, input)
    return output if bias is None else output + _per_channel(bias, input)


def _frozen(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` with the batch's statistics as constants."""
    if training:
        running_mean, running_var = _of_batch(input)
    return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)


def _frozen_forward(layer: _BatchNorm, input: Tensor) -> Tensor:
    return F.batch_norm(input, *_statistics(layer, input), layer.weight, layer.bias, training=False, eps=layer.eps)


def _uses_batch(layer: _BatchNorm) -> bool:
    return layer.training or layer.running_mean is None or layer.running_var is None


def _statistics(layer: _BatchNorm, input: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance that the layer normalises by, as constants."""
    if not _uses_batch(layer):
        assert layer.running_mean is not None and layer.running_var is not None
        return layer.running_mean, layer.running_var
    return _of_batch(input)


@torch.no_grad()
def _of_batch(input: Tensor) -> tuple[Tensor, Tensor]:
    # Three times as quick as torch.var_mean, whose reduction over the batch is slow on the CPU.
    mean, variance = torch.batch_norm_update_stats(input, None, None, 0.0)
    return mean, variance


def _update_running(layer: _BatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    assert layer.running_mean is not None and layer.running_var is not None
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked = layer.num_batches_tracked + 1
    momentum = layer.momentum if layer.momentum is not None else 1.0 / float(layer.num_batches_tracked)
    unbiased = variance * (count / (count - 1))
    layer.running_mean = (1 - momentum) * layer.running_mean + momentum * mean
    layer.running_var = (1 - momentum) * layer.running_var + momentum * unbiased


def _per_channel(values: Tensor, input: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (input.dim() - 2))
