"""Functions whose derivatives torch lacks or gets wrong, written out in others that it differentiates.

torch._weight_norm  has no forward mode, and a wrong second derivative (of torch 2.13; gradgradcheck shows it)
F.embedding_bag     has no forward mode, and no second derivative
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode


def needs_twins(model: nn.Module) -> bool:
    """Whether a module of the model calls one of the functions."""
    return any(
        isinstance(module, nn.EmbeddingBag)
        or type(module).__name__ == "_WeightNorm"
        or any(isinstance(hook, WeightNorm) for hook in module._forward_pre_hooks.values())
        for module in model.modules()
    )


@contextmanager
def with_twins() -> Iterator[None]:
    """Call the twins in place of the functions."""
    with _Twins():
        yield


class _Twins(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return TWINS.get(func, func)(*args, **(kwargs or {}))


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """A weight of length g in the direction of v, along every index of `dim`; of all of v where dim is -1."""
    over = [axis for axis in range(v.dim()) if dim == -1 or axis != dim]
    return v * (g / v.square().sum(over, keepdim=True).sqrt())


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Sums or means of looked-up rows, a bag at a time; the padding row is left out."""
    if mode == "max" or max_norm is not None:
        return F.embedding_bag(
            input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse, per_sample_weights,
            include_last_offset, padding_idx,
        )  # fmt: skip
    bag, bags = _bags(input, offsets, include_last_offset)
    index = input.reshape(-1)
    padding = -1 if padding_idx is None else padding_idx % len(weight)
    counted = (index != padding).to(weight)
    factors = counted if per_sample_weights is None else counted * per_sample_weights.reshape(-1)
    total = weight.new_zeros(bags, weight.shape[1]).index_add(0, bag, F.embedding(index, weight) * factors[:, None])
    if mode == "sum":
        return total
    return total / weight.new_zeros(bags).index_add(0, bag, counted).clamp_min(1)[:, None]


def _bags(input: Tensor, offsets: Tensor | None, include_last_offset: bool) -> tuple[Tensor, int]:
    """The bag of every index, and their number."""
    if offsets is None:
        bags, length = input.shape
        return torch.arange(bags, device=input.device).repeat_interleave(length), bags
    starts = offsets[:-1] if include_last_offset else offsets
    places = torch.arange(len(input), device=input.device)
    return torch.searchsorted(starts, places, right=True) - 1, len(starts)


TWINS: dict[Any, Callable[..., Any]] = {torch._weight_norm: weight_norm, F.embedding_bag: embedding_bag}
"""Function of torch to its twin."""
