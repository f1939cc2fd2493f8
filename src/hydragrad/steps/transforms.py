"""What happens to the gradients between backward() and step(): clipping and scaling, with their derivatives.

Legend: g gradient before the transform, g' after it; x_dot tangent, x_bar cotangent. A transform concerns some of the
parameters; here their gradients lie side by side in flat vectors, and a transform sees the coordinates of its own.

Source: torch.nn.utils.clip_grad_norm_ and clip_grad_value_ semantics; the derivative of a product and a norm.
"""

import abc
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

EPSILON = 1e-6
"""What torch adds to the norm that it divides by."""


@dataclass(frozen=True, kw_only=True)
class Transform(abc.ABC):
    """One change of the gradients of some parameters.

    Attributes:
        names: The parameters, in the order in which the loop named them.
    """

    names: tuple[str, ...]

    @abc.abstractmethod
    def apply(self, parameters: Sequence[nn.Parameter]) -> None:
        """Change the parameters' `grad`, in place, by torch's own function."""

    @abc.abstractmethod
    def tangent(self, g_dot: Tensor, g: Tensor) -> Tensor:
        """Tangent of the changed gradient; `g_dot` (..., coordinates), `g` (coordinates,) before the change."""

    @abc.abstractmethod
    def transpose(self, g_bar: Tensor, g: Tensor) -> Tensor:
        """Cotangent of the gradient before the change; arguments as in `tangent`."""


@dataclass(frozen=True, kw_only=True)
class ClipNorm(Transform):
    """torch.nn.utils.clip_grad_norm_: all gradients times min(1, max_norm / norm).

    Attributes:
        max_norm: The largest norm that is left alone.
        norm_type: p of the p-norm; inf is the largest absolute value.
        foreach: Which kernel torch takes.
    """

    max_norm: float
    norm_type: float = 2.0
    foreach: bool | None = None

    def apply(self, parameters: Sequence[nn.Parameter]) -> None:
        """Clip."""
        clip_grad_norm_(parameters, self.max_norm, self.norm_type, foreach=self.foreach)

    def tangent(self, g_dot: Tensor, g: Tensor) -> Tensor:
        """Tangent of the clipped gradient."""
        scale, norm, slope = self._at(g)
        if slope is None:
            return scale * g_dot
        along = (g_dot * slope).sum(-1, keepdim=True)
        return scale * g_dot - scale / (norm + EPSILON) * along * g

    def transpose(self, g_bar: Tensor, g: Tensor) -> Tensor:
        """Cotangent of the gradient before clipping."""
        scale, norm, slope = self._at(g)
        if slope is None:
            return scale * g_bar
        along = (g_bar * g).sum(-1, keepdim=True)
        return scale * g_bar - scale / (norm + EPSILON) * along * slope

    def _at(self, g: Tensor) -> tuple[float, float, Tensor | None]:
        """Scale, norm, and the norm's gradient; None where nothing is clipped."""
        norm = float(torch.linalg.vector_norm(g, self.norm_type))
        scale = self.max_norm / (norm + EPSILON)
        if scale >= 1:
            return 1.0, norm, None
        if math.isinf(self.norm_type):
            largest = g.abs() == g.abs().max()
            return scale, norm, g.sign() * largest / largest.sum()
        return scale, norm, g.sign() * (g.abs() / norm) ** (self.norm_type - 1)


@dataclass(frozen=True, kw_only=True)
class ClipValue(Transform):
    """torch.nn.utils.clip_grad_value_: every coordinate of the gradient within [-limit, limit].

    Attributes:
        limit: The largest absolute value that is left alone.
        foreach: Which kernel torch takes.
    """

    limit: float
    foreach: bool | None = None

    def apply(self, parameters: Sequence[nn.Parameter]) -> None:
        """Clip."""
        clip_grad_value_(parameters, self.limit, foreach=self.foreach)

    def tangent(self, g_dot: Tensor, g: Tensor) -> Tensor:
        """Tangent of the clipped gradient."""
        return g_dot * (g.abs() < self.limit)

    def transpose(self, g_bar: Tensor, g: Tensor) -> Tensor:
        """Cotangent of the gradient before clipping."""
        return g_bar * (g.abs() < self.limit)


@dataclass(frozen=True, kw_only=True)
class Scale(Transform):
    """All gradients times a number.

    Attributes:
        factor: The number.
    """

    factor: float

    def apply(self, parameters: Sequence[nn.Parameter]) -> None:
        """Scale."""
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(self.factor)

    def tangent(self, g_dot: Tensor, g: Tensor) -> Tensor:
        """Tangent of the scaled gradient."""
        return self.factor * g_dot

    def transpose(self, g_bar: Tensor, g: Tensor) -> Tensor:
        """Cotangent of the gradient before scaling."""
        return self.factor * g_bar


KINDS: dict[str, type[Transform]] = {"clip_norm": ClipNorm, "clip_value": ClipValue, "scale": Scale}


def to_plain(transform: Transform) -> dict[str, Any]:
    """A transform as JSON values."""
    kind = next(name for name, known in KINDS.items() if known is type(transform))
    return {"kind": kind, **asdict(transform)}


def from_plain(values: Mapping[str, Any]) -> Transform:
    """Undo `to_plain`."""
    entries = {name: value for name, value in values.items() if name != "kind"}
    return KINDS[values["kind"]](**entries | {"names": tuple(entries["names"])})


def transpose_transforms(
    transforms: Sequence[Transform], spans: Mapping[str, slice], g_bar: Tensor, gradients: Sequence[Tensor]
) -> Tensor:
    """Pull the cotangent of the gradients that the optimizer got back through all transforms.

    Args:
        transforms: In the order in which they were applied.
        spans: Where each parameter lies in the flat vectors; those that are not there have no derivative.
        g_bar: (..., coordinates).
        gradients: The gradients before each transform, (coordinates,).
    """
    for transform, g in reversed(list(zip(transforms, gradients, strict=True))):
        at = _coordinates(transform.names, spans, g)
        g_bar = g_bar.clone()
        g_bar[..., at] = transform.transpose(g_bar[..., at], g[at])
    return g_bar


def tangent_transforms(
    transforms: Sequence[Transform], spans: Mapping[str, slice], g_dot: Tensor, gradients: Sequence[Tensor]
) -> Tensor:
    """Advance the tangent of the gradients through all transforms; arguments as in `transpose_transforms`."""
    for transform, g in zip(transforms, gradients, strict=True):
        at = _coordinates(transform.names, spans, g)
        g_dot = g_dot.clone()
        g_dot[..., at] = transform.tangent(g_dot[..., at], g[at])
    return g_dot


def _coordinates(names: Iterable[str], spans: Mapping[str, slice], like: Tensor) -> Tensor:
    parts = [torch.arange(spans[name].start, spans[name].stop) for name in names if name in spans]
    return torch.cat(parts).to(like.device) if parts else torch.empty(0, dtype=torch.int64, device=like.device)
