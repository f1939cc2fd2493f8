"""Random projections that keep inner products right on average, without ever holding a row in full.

A parameter's gradient is added to k columns one parameter at a time. The parameter's shape decides between two maps:

shifts   the flat gradient is cut into chunks of k; every coordinate gets a random sign, every chunk a random cyclic
         shift, and all are added up. Two coordinates of different chunks meet with probability 1/k, two of one
         chunk never.
tensor   for the weight of a large linear layer, delta x': sketches of delta and of x, multiplied in the Fourier
         domain, so that not even the layer's own gradient is formed.

Both are unbiased: E<Pu, Pv> = <u, v>. Of shifts, Var<Pu, Pv> = 1/k sum (u_i^2 v_j^2 + u_i v_i u_j v_j) over
coordinates i, j of different chunks.

Source: Charikar, Chen and Farach-Colton 2002 (count-sketch); Pham and Pagh 2013 (TensorSketch).
"""

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hydragrad.derivatives.layout import Layout

TENSOR_SKETCH_FROM_RATIO = 64
"""A linear weight of at least this many times as many numbers as columns is sketched from its two factors."""


class Projector:
    """A seeded linear map of gradients to fewer columns, group by group.

    Args:
        layout: Lays out the parameters.
        groups: Parameters whose columns belong together; they are adjacent in the layout, group after group.
        dims: Columns in all, shared out in proportion to the groups' sizes; a group that is no larger than its
            share is not projected.
        seed: The same seed gives the same map, in every process.
        dtype: Of the result.
        device: Of the result.

    Attributes:
        width: Columns in all.
        spans: The columns of every group.
    """

    def __init__(
        self,
        layout: Layout,
        groups: Sequence[Sequence[str]],
        dims: int,
        *,
        seed: int = 0,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        if dims < 1:
            raise ValueError(f"A projection needs at least 1 dimension, got {dims}.")
        self._layout, self._dtype, self._device = layout, dtype, device
        self.spans: list[slice] = []
        self._maps: dict[str, _Map] = {}
        for names in groups:
            sizes = [math.prod(layout.shapes[name]) for name in names]
            share = max(1, round(dims * sum(sizes) / max(1, layout.size)))
            start, identity = self.width, sum(sizes) <= share
            self.spans.append(slice(start, start + min(share, sum(sizes))))
            for name, size in zip(names, sizes, strict=True):
                if identity:
                    self._maps[name] = _Identity(slice(start, start + size))
                    start += size
                else:
                    self._maps[name] = _sketch(layout.shapes[name], self.spans[-1], seed, name, dtype, device)

    @property
    def width(self) -> int:
        """Columns in all."""
        return self.spans[-1].stop if self.spans else 0

    def zeros(self, rows: int) -> Tensor:
        """Empty rows."""
        return torch.zeros(rows, self.width, dtype=self._dtype, device=self._device)

    def add(self, out: Tensor, name: str, gradient: Tensor) -> None:
        """Add the projection of one parameter's gradients, (rows, *shape), to `out`, (rows, width)."""
        self._maps[name].add(out, gradient.reshape(len(gradient), -1).to(self._dtype))

    def add_outer_products(self, out: Tensor, name: str, x: Tensor, delta: Tensor) -> None:
        """The same for a weight whose gradients are sums of outer products delta x' over positions.

        Args:
            out: (rows, width).
            name: A weight of shape (outputs, inputs).
            x: (rows, positions, inputs).
            delta: (rows, positions, outputs).
        """
        sketch = self._maps[name]
        if isinstance(sketch, _Tensor) and x.shape[1] == 1:
            sketch.add_factors(out, x.to(self._dtype), delta.to(self._dtype))
        else:
            self.add(out, name, torch.einsum("nso,nsi->noi", delta, x))

    def rows(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Project named gradients, each (rows, *shape); missing ones are zero."""
        out = self.zeros(len(next(iter(gradients.values()))))
        for name, gradient in gradients.items():
            self.add(out, name, gradient)
        return out

    def flat(self, vectors: Tensor) -> Tensor:
        """Project flat vectors, (rows, layout.size)."""
        return self.rows(self._layout.views(vectors.to(self._dtype)))


class _Map:
    """How one parameter's gradient enters the columns of its group."""

    def add(self, out: Tensor, flat: Tensor) -> None:
        raise NotImplementedError


class _Identity(_Map):
    """The gradient itself."""

    def __init__(self, span: slice) -> None:
        self._span = span

    def add(self, out: Tensor, flat: Tensor) -> None:
        out[:, self._span] += flat


class _Shifts(_Map):
    def __init__(self, span: slice, signs: Tensor, shifts: Sequence[int]) -> None:
        # Every piece of the gradient that stays in one piece, where it goes, and its signs.
        self._pieces: list[tuple[slice, slice, Tensor]] = []
        k = span.stop - span.start
        for start, shift in zip(range(0, len(signs), k), shifts, strict=True):
            stop = min(start + k, len(signs))
            cut = min(start + k - shift, stop)
            for first, last, to in ((start, cut, span.start + shift), (cut, stop, span.start)):
                if first < last:
                    self._pieces.append((slice(first, last), slice(to, to + last - first), signs[first:last]))

    def add(self, out: Tensor, flat: Tensor) -> None:
        for source, target, signs in self._pieces:
            out[:, target].addcmul_(flat[:, source], signs)


class _Tensor(_Map):
    """Count-sketches of both factors of delta x', convolved."""

    def __init__(self, span: slice, signs: tuple[Tensor, Tensor], buckets: tuple[Tensor, Tensor]) -> None:
        self._span, self._k = span, span.stop - span.start
        self._signs, self._buckets = signs, buckets

    def add(self, out: Tensor, flat: Tensor) -> None:
        index = ((self._buckets[0][:, None] + self._buckets[1]) % self._k).flatten()
        signs = torch.outer(*self._signs).flatten()
        out[:, self._span].index_add_(1, index, flat * signs)

    def add_factors(self, out: Tensor, x: Tensor, delta: Tensor) -> None:
        sketches = [
            out.new_zeros(len(x), self._k).index_add_(1, buckets, factor[:, 0] * signs)
            for factor, signs, buckets in zip((delta, x), self._signs, self._buckets, strict=True)
        ]
        left, right = (torch.fft.rfft(sketch) for sketch in sketches)
        out[:, self._span] += torch.fft.irfft(left * right, n=self._k)


def _sketch(
    shape: torch.Size, span: slice, seed: int, name: str, dtype: torch.dtype, device: torch.device | str
) -> _Map:
    k, size = span.stop - span.start, shape.numel()
    random = np.random.PCG64([seed, zlib.crc32(name.encode())])
    if len(shape) == 2 and size >= TENSOR_SKETCH_FROM_RATIO * k:
        factors = [(_signs(random, n).to(device, dtype), _integers(random, n, k).to(device)) for n in shape]
        (left, left_at), (right, right_at) = factors
        return _Tensor(span, (left, right), (left_at, right_at))
    signs = _signs(random, size).to(device, dtype)
    return _Shifts(span, signs, _integers(random, -(-size // k), k).tolist())


def _signs(random: np.random.PCG64, count: int) -> Tensor:
    # Raw words of the generator are the same in every version of NumPy.
    words = random.random_raw(-(-count // 64))
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8))[:count]
    return torch.from_numpy(1.0 - 2.0 * bits)


def _integers(random: np.random.PCG64, count: int, below: int) -> Tensor:
    return torch.from_numpy((random.random_raw(count) % np.uint64(below)).astype(np.int64))
