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

_MARK = 1 << 64


def state_number(tensors: Iterable[Tensor]) -> float:
    """One number over tensors: their norms in float64, each times a factor of its own.

    NaN where one holds NaN, infinite where the square of a norm is too large for its tensor.
    """
    floating = [_values(tensor) for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if not floating:
        return 0.0
    with torch.no_grad():
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
    return tensor if tensor.layout is torch.strided else strided_parts(tensor.detach())[-1]


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
    """Digest of a batch: tensors and arrays, their types and shapes, and numbers; of large tensors a sample.

    The lower 32 bits are the CRC-32 of everything, the 32 above them that of types, shapes, integers and truth values,
    which are the same on every machine. The bit above them says that they are there.
    """
    everything = unrounded = 0
    for leaf in leaves(data):
        for part, rounded in _parts_of_leaf(leaf):
            everything = zlib.crc32(part, everything)
            unrounded = unrounded if rounded else zlib.crc32(part, unrounded)
    return _MARK | unrounded << 32 | everything


def same_batch(recorded: int, digest: int, *, rounded: bool = False) -> bool:
    """Whether a batch is the recorded one.

    Args:
        recorded: Its digest then; earlier versions had the lower 32 bits only.
        digest: Its digest now.
        rounded: Whether floating-point numbers may be rounded otherwise.
    """
    if (recorded ^ digest) & 0xFFFFFFFF == 0:
        return True
    return rounded and recorded & _MARK > 0 and recorded >> 32 == digest >> 32


def _parts_of_leaf(leaf: Any) -> Iterator[tuple[Any, bool]]:
    """Bytes of a leaf, and whether they are of numbers that a machine may round otherwise."""
    if isinstance(leaf, NUMBERS):
        yield repr(leaf).encode(), isinstance(leaf, float | complex)
        return
    tensor = leaf if isinstance(leaf, Tensor) else _of_array(leaf)
    if tensor is None:
        return
    yield f"{tensor.dtype}{tuple(tensor.shape)}".encode(), False
    for part in strided_parts(tensor):
        flat = part.reshape(-1)
        stride = max(1, -(-flat.numel() * flat.element_size() // WHOLE_BYTES))
        sample = flat[::stride].cpu().contiguous().view(torch.uint8)
        yield sample.numpy().data, part.is_floating_point() or part.is_complex()


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
