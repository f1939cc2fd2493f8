"""Cross-entropy of a large vocabulary, a few positions at a time: logits of all positions never exist at once.

Legend: h hidden states (N, D), W the head's weight (V, D), y labels (N,), c cotangent of the losses (N,), z = h W' the
logits, p their softmax, e_y the label's unit vector; rows of a chunk stand for those of all positions.

    losses          l = logsumexp(z) - z_y
    tangent         l. = (p - e_y) . z.                          z. = h. W' + h W.'
    gradients       d = c (p - e_y);  h^ = d W,  W^ = d' h
    their tangents  d. = c. (p - e_y) + c p (z. - p . z.);  h^. = d. W + d W.,  W^. = d.' h + d' h.
    pulled back     of cotangents u of h^ and U of W^, with a = u W' + h U' and e = c p (a - p . a):
                    h: e W + d U,  W: e' h + d' u,  c: (p - e_y) . a
    Gauss-Newton    J' H J with J the Jacobian of the logits, k = c p (z. - p . z.):  h^ = k W,  W^ = k' h

Logits are computed again, chunk by chunk, by every one of them: each needs the memory of a chunk only.

Source: the gradient by chunks is that of cut cross-entropy (Wijmans et al., ICLR 2025); what goes beyond it is ours.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hydragrad.errors import LossError

CHUNK_BYTES = 1 << 24
"""Of the logits of a chunk in float32, unless its size is given."""


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, *, chunk: int | None = None, ignore_index: int = -100
) -> Tensor:
    """Cross-entropy of every position from hidden states and the head's weight, without holding all logits.

    Equal to `F.cross_entropy(hidden @ weight.T, labels, reduction="none")` to rounding, and so are its gradients,
    its directional derivatives, and those of its gradients. What is differentiated otherwise (a third time) is refused
    by torch. `curvature="ggn"` takes the Gauss-Newton product through the logits, for losses that are linear in what
    this returns (means and sums over positions).

    Args:
        hidden: Floating-point (..., width): what the model's last layer returns before its head.
        weight: (vocabulary, width), of a head without bias.
        labels: int64 (...).
        chunk: Positions whose logits exist at the same time; as many as take 16 MiB in float32 if None.
        ignore_index: Label of positions whose loss is 0.

    Returns:
        Losses of the shape of the labels, in nats; in float32 where hidden states and weight are of less precision.

    Raises:
        LossError: Shapes that do not fit, or a chunk below 1.

    Cost: memory of (chunk, vocabulary); each derivative computes the logits again.
    """
    vocabulary = _vocabulary(hidden, weight, labels)
    if chunk is not None and chunk < 1:
        raise LossError(f"chunk is a number of positions, 1 or more, got {chunk}.")
    size = chunk or max(1, CHUNK_BYTES // (4 * vocabulary))
    dtype = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
    counts = labels.reshape(-1) != ignore_index
    given = torch.where(counts, labels.reshape(-1), 0)
    with torch.autocast(hidden.device.type, enabled=False):
        rows, head = hidden.reshape(-1, hidden.shape[-1]).to(dtype), weight.to(dtype)
        losses: Tensor = _Losses.apply(rows, head, given, size)  # type: ignore[no-untyped-call]
    losses = _noted(Call(rows, head, given, size, losses))
    return torch.where(counts, losses, 0.0).reshape(labels.shape)


class Call(NamedTuple):
    """One call: hidden states h, weight w, labels y, positions of a chunk, and the losses that it returned, (N,)."""

    h: Tensor
    w: Tensor
    y: Tensor
    chunk: int
    losses: Tensor

    @property
    def chunk_bytes(self) -> int:
        """Of the logits that exist at the same time."""
        return self.chunk * self.w.shape[0] * self.w.element_size()

    def gauss_newton(self, c: Tensor, h_dot: Tensor, w_dot: Tensor) -> tuple[Tensor, Tensor]:
        """Cotangents of h and w whose pull-back is the Gauss-Newton product along a direction.

        Args:
            c: Gradient of the batch loss in the losses, (N,).
            h_dot, w_dot: Tangents along the direction.
        """
        h, w, h_dot, w_dot = _plain(self.h, self.w, h_dot, w_dot)
        h_bars, w_bar = [], torch.zeros_like(w)
        for rows in _chunks(h, self.chunk):
            k = c[rows, None] * _curved((h[rows] @ w.T).softmax(1), _moved(h[rows], w, h_dot[rows], w_dot))
            h_bars.append(k @ w)
            w_bar += k.T @ h[rows]
        return torch.cat(h_bars), w_bar


class _Watched:
    """Calls while a loss runs, or the losses that they get as answers."""

    def __init__(self, answers: list[Tensor] | None) -> None:
        self.calls: list[Call] = []
        self.answers = answers


_WATCHED: ContextVar[_Watched | None] = ContextVar("watched", default=None)


@contextmanager
def head_calls(answers: list[Tensor] | None = None) -> Iterator[list[Call]]:
    """Collect the calls of `chunked_cross_entropy`; with answers these are what they return, in order."""
    watched = _Watched(answers)
    token = _WATCHED.set(watched)
    try:
        yield watched.calls
    finally:
        _WATCHED.reset(token)


def _noted(call: Call) -> Tensor:
    watched = _WATCHED.get()
    if watched is None:
        return call.losses
    watched.calls.append(call)
    return call.losses if watched.answers is None else watched.answers[len(watched.calls) - 1]


def _vocabulary(hidden: Tensor, weight: Tensor, labels: Tensor) -> int:
    fits = weight.dim() == 2 and hidden.shape[-1:] == weight.shape[1:] and hidden.shape[:-1] == labels.shape
    if not fits or labels.is_floating_point():
        shapes = f"{tuple(hidden.shape)}, {tuple(weight.shape)} and {labels.dtype} {tuple(labels.shape)}"
        raise LossError(
            f"hidden states must have the shape (..., width), the weight (vocabulary, width) and labels, whole "
            f"numbers, (...); got {shapes}."
        )
    return weight.shape[0]


class _Losses(torch.autograd.Function):
    """(h, W, y, chunk) to l."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, w: Tensor, y: Tensor, chunk: int) -> Tensor:
        return torch.cat([_losses(z, y[rows]) for rows in _chunks(h, chunk) for z in [h[rows] @ w.T]])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        h, w, y, ctx.chunk = inputs
        ctx.save_for_backward(h, w, y)
        ctx.save_for_forward(h, w, y)

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> Any:
        h, w, y = ctx.saved_tensors
        h_bar, w_bar = _Gradients.apply(h, w, y, c, ctx.chunk)  # type: ignore[no-untyped-call]
        return h_bar, w_bar, None, None

    @staticmethod
    def jvp(ctx: Any, h_dot: Tensor | None, w_dot: Tensor | None, *_: Any) -> Tensor:
        dot: Tensor = _Along.apply(*ctx.saved_tensors, h_dot, w_dot, ctx.chunk)  # type: ignore[no-untyped-call]
        return dot


class _Along(torch.autograd.Function):
    """(h, W, y, h., W., chunk) to l.; a graph of its own operations would hold the logits of all chunks."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, w: Tensor, y: Tensor, h_dot: Tensor | None, w_dot: Tensor | None, chunk: int) -> Tensor:
        dots = []
        for rows in _chunks(h, chunk):
            p = _less_label((h[rows] @ w.T).softmax(1), y[rows])
            dots.append((p * _moved(h[rows], w, _rows(h_dot, rows), w_dot)).sum(1))
        return torch.cat(dots)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError(
            "The tangent of chunked_cross_entropy has no gradient; differentiate its gradient forward instead."
        )


class _Gradients(torch.autograd.Function):
    """(h, W, y, c, chunk) to (h^, W^)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, w: Tensor, y: Tensor, c: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        h_bars, w_bar = [], torch.zeros_like(w)
        for rows in _chunks(h, chunk):
            d = c[rows, None] * _less_label((h[rows] @ w.T).softmax(1), y[rows])
            h_bars.append(d @ w)
            w_bar = w_bar + d.T @ h[rows]
        return torch.cat(h_bars), w_bar

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        h, w, y, c, ctx.chunk = inputs
        ctx.save_for_backward(h, w, y, c)
        ctx.save_for_forward(h, w, y, c)

    @staticmethod
    def jvp(ctx: Any, h_dot: Tensor | None, w_dot: Tensor | None, _: Any, c_dot: Tensor | None, *__: Any) -> Any:
        h, w, y, c, h_dot, w_dot, c_dot = _plain(*ctx.saved_tensors, h_dot, w_dot, c_dot)
        h_dots, w_bar_dot = [], torch.zeros_like(w)
        for rows in _chunks(h, ctx.chunk):
            p = (h[rows] @ w.T).softmax(1)
            z_dot, less = _moved(h[rows], w, _rows(h_dot, rows), w_dot), _less_label(p, y[rows])
            d, d_dot = c[rows, None] * less, c[rows, None] * _curved(p, z_dot)
            d_dot = d_dot if c_dot is None else d_dot + c_dot[rows, None] * less
            h_row_dot = d_dot @ w
            h_dots.append(h_row_dot if w_dot is None else h_row_dot + d @ w_dot)
            w_bar_dot = w_bar_dot + d_dot.T @ h[rows]
            w_bar_dot = w_bar_dot if h_dot is None else w_bar_dot + d.T @ h_dot[rows]
        return torch.cat(h_dots), w_bar_dot

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, u: Tensor, w_u: Tensor) -> Any:
        h, w, y, c = ctx.saved_tensors
        h_bars, c_bars, w_bar = [], [], torch.zeros_like(w)
        for rows in _chunks(h, ctx.chunk):
            p = (h[rows] @ w.T).softmax(1)
            a, less = u[rows] @ w.T + h[rows] @ w_u.T, _less_label(p, y[rows])
            d, e = c[rows, None] * less, c[rows, None] * _curved(p, a)
            h_bars.append(e @ w + d @ w_u)
            w_bar = w_bar + e.T @ h[rows] + d.T @ u[rows]
            c_bars.append((less * a).sum(1))
        return torch.cat(h_bars), w_bar, None, torch.cat(c_bars), None


def _chunks(h: Tensor, chunk: int) -> Iterator[slice]:
    for start in range(0, max(1, len(h)), chunk):
        yield slice(start, start + chunk)


def _losses(z: Tensor, y: Tensor) -> Tensor:
    return z.logsumexp(1) - z.gather(1, y[:, None])[:, 0]


def _less_label(p: Tensor, y: Tensor) -> Tensor:
    """p - e_y."""
    return p.scatter_add(1, y[:, None], -torch.ones_like(p[:, :1]))


def _curved(p: Tensor, z_dot: Tensor) -> Tensor:
    """The losses' Hessian in the logits times z_dot."""
    return p * (z_dot - (p * z_dot).sum(1, keepdim=True))


def _moved(h: Tensor, w: Tensor, h_dot: Tensor | None, w_dot: Tensor | None) -> Tensor:
    """z., the tangent of the logits."""
    parts = [] if h_dot is None else [h_dot @ w.T]
    parts += [] if w_dot is None else [h @ w_dot.T]
    return sum(parts[1:], parts[0]) if parts else torch.zeros_like(h @ w.T)


def _rows(tensor: Tensor | None, rows: slice) -> Tensor | None:
    return None if tensor is None else tensor[rows]


def _plain(*tensors: Tensor | None) -> Any:
    """Without a graph: a tangent's own graph would hold the logits of every chunk."""
    return [None if tensor is None else tensor.detach() for tensor in tensors]
