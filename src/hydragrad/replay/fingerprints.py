"""Fingerprints of what a step started from and ended in: one number over the whole state, one digest of a batch.

They are cheap enough for every step, and equal to the bit where the run is repeated: parameters, optimizer state and
floating buffers that moved unseen show in the number, changed data in the digest.
"""

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hydragrad.derivatives.leaves import leaves
from hydragrad.runs.log import Structure

GOLDEN = 0.6180339887498949
"""Its multiples lie evenly between 0 and 1, so that tensors of one shape do not stand in for one another."""

NUMBERS = bool, int, float, complex

WHOLE_BYTES = 1 << 20
"""Batches up to so many bytes are digested whole, of larger ones elements evenly spaced."""


def state_number(tensors: Iterable[Tensor]) -> float:
    """One number over tensors: their norms in float64, each times a factor of its own.

    NaN where one holds NaN, infinite where the square of a norm is too large for its tensor.
    """
    floating = [_values(tensor) for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if not floating:
        return 0.0
    listed = torch._foreach_norm(floating, 2, dtype=torch.float64)
    norms = torch.stack(list(listed) if floating[0].is_cpu else [norm.cpu() for norm in listed])
    dtypes = [tensor.dtype for tensor in floating]
    if float(norms.max()) > min(map(_largest, set(dtypes))):
        norms[norms > torch.tensor([_largest(dtype) for dtype in dtypes], dtype=torch.float64)] = math.inf
    return float(norms @ _factors(len(norms)))


@cache
def _largest(dtype: torch.dtype) -> float:
    """The largest norm whose square a type can hold."""
    return math.sqrt(torch.finfo(dtype).max)


@cache
def _factors(count: int) -> Tensor:
    return 1 + torch.arange(1, count + 1, dtype=torch.float64).mul_(GOLDEN).frac_()


def _values(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor if tensor.layout is torch.strided else strided_parts(tensor)[-1]


def first_trained_norm(parameters: Mapping[str, Tensor], structure: Structure) -> float:
    """Norm of the first parameter that a step moved: what schema 1 noted of the state."""
    for group in structure.groups:
        for name in group:
            if name not in structure.idle:
                return float(torch.linalg.vector_norm(parameters[name].detach()))
    return 0.0


def state_of(model: nn.Module, optimizers: Iterable[Optimizer]) -> Iterator[Tensor]:
    """Everything that a step may move: parameters, floating buffers, optimizer states, in the model's order."""
    parameters = list(model.parameters())
    yield from parameters
    yield from model.buffers()
    for optimizer in optimizers:
        for parameter in parameters:
            entries = optimizer.state.get(parameter, {})
            yield from (entries[name] for name in sorted(entries) if isinstance(entries[name], Tensor))


def batch_digest(data: Any) -> int:
    """CRC-32 of a batch: tensors and arrays, their types and shapes, and numbers; of large tensors a sample."""
    digest = 0
    for leaf in leaves(data):
        if isinstance(leaf, NUMBERS):
            digest = zlib.crc32(repr(leaf).encode(), digest)
            continue
        tensor = leaf if isinstance(leaf, Tensor) else _of_array(leaf)
        if tensor is None:
            continue
        digest = zlib.crc32(f"{tensor.dtype}{tuple(tensor.shape)}".encode(), digest)
        for part in strided_parts(tensor):
            flat = part.reshape(-1)
            stride = max(1, -(-flat.numel() * flat.element_size() // WHOLE_BYTES))
            sample = flat[::stride].cpu().contiguous().view(torch.uint8)
            digest = zlib.crc32(sample.numpy().data, digest)
    return digest


def strided_parts(tensor: Tensor) -> list[Tensor]:
    """The tensor, detached, as ordinary tensors: of a sparse or nested one its places and values."""
    tensor = tensor.detach()
    if tensor.layout is torch.strided and not tensor.is_nested:
        return [tensor.resolve_conj().resolve_neg()]
    if tensor.is_nested:
        return list(tensor.unbind())
    coordinates = tensor.to_sparse_coo().coalesce()
    return [coordinates.indices(), coordinates.values()]


def _of_array(leaf: Any) -> Tensor | None:
    """An array of numbers as a tensor; None for anything else."""
    if not isinstance(leaf, np.ndarray | np.generic):
        return None
    try:
        return torch.from_numpy(np.array(leaf))
    except TypeError:
        return None
