"""Operations without a forward-mode rule, or without one over reverse mode, as formulas of operations that have them.

The formulas are used where derivatives are evaluated, whoever calls the operation; they have the values and first
derivatives of torch's own kernels, up to rounding. The second derivative of torch._weight_norm is wrong in torch 2.13,
as gradgradcheck shows.

Source: Graves et al. 2006, eqs. 5-8, in logarithms (CTC).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Twin = Callable[..., Tensor | None]


class Twins(TorchFunctionMode):
    """Calls the formula in the place of the operation."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        twin = TWINS.get(func)
        result = None if twin is None else twin(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if result is None else result


def _silu(input: Tensor, inplace: bool = False) -> Tensor:
    return input * torch.sigmoid(input)


def _mish(input: Tensor, inplace: bool = False) -> Tensor:
    return input * torch.tanh(F.softplus(input))


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    grouped = input.reshape(len(input), num_groups, -1)
    centred = grouped - grouped.mean(-1, keepdim=True)
    output = (centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)).reshape(input.shape)
    shape = (1, -1, *[1] * (input.dim() - 2))
    output = output if weight is None else output * weight.view(shape)
    return output if bias is None else output + bias.view(shape)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    over = [other for other in range(v.dim()) if other != dim % v.dim()] if dim != -1 else list(range(v.dim()))
    lengths: Tensor = torch.linalg.vector_norm(v, 2, over, keepdim=True)
    return v * (g / lengths.view(g.shape))


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    distances: Tensor = torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)
    return distances


def _embedding_bag(
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
) -> Tensor | None:
    if max_norm is not None or scale_grad_by_freq or mode not in ("sum", "mean", "max"):
        return None
    entries = input.reshape(-1)
    if input.dim() == 2:
        count, size = input.shape
        bag = torch.arange(count, device=input.device).repeat_interleave(size)
    else:
        assert offsets is not None
        starts = offsets[:-1] if include_last_offset else offsets
        count = len(starts)
        places = torch.arange(len(entries), device=input.device)
        bag = torch.searchsorted(starts.contiguous(), places, right=True) - 1
        if include_last_offset:
            entries, bag = entries[: offsets[-1]], bag[: offsets[-1]]
    looked_up = F.embedding(entries, weight)
    used = torch.ones_like(entries, dtype=torch.bool)
    if padding_idx is not None:
        used = entries != padding_idx % len(weight)
    if mode == "max":
        return _largest(looked_up, bag, used, count)
    factors = used.to(weight.dtype)
    if mode == "mean":
        sizes = torch.zeros(count, dtype=weight.dtype, device=weight.device).index_add(0, bag, factors)
        factors = factors / sizes.clamp(min=1)[bag]
    elif per_sample_weights is not None:
        factors = factors * per_sample_weights.reshape(-1)[: len(entries)]
    zeros = torch.zeros(count, weight.shape[1], dtype=weight.dtype, device=weight.device)
    return zeros.index_add(0, bag, looked_up * factors.unsqueeze(-1))


def _largest(looked_up: Tensor, bag: Tensor, used: Tensor, count: int) -> Tensor:
    """The first largest entry of every bag and column; 0 for empty bags."""
    columns = []
    values = looked_up.detach()
    for number in range(count):
        places = ((bag == number) & used).nonzero().squeeze(-1)
        if len(places) == 0:
            columns.append(torch.zeros_like(looked_up[:1].sum(0)))
            continue
        largest = values[places].argmax(0, keepdim=True)
        columns.append(looked_up[places].gather(0, largest).squeeze(0))
    return torch.stack(columns)


def _ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Sums over alignments, one step of time after the other."""
    single = log_probs.dim() == 2
    log_probs = log_probs.unsqueeze(1) if single else log_probs
    device, samples = log_probs.device, log_probs.shape[1]
    input_lengths = torch.as_tensor(input_lengths, device=device).reshape(-1)
    target_lengths = torch.as_tensor(target_lengths, device=device).reshape(-1)
    extended = _with_blanks(targets.to(device), target_lengths, samples, blank)
    emitted = log_probs.gather(2, extended.unsqueeze(0).expand(len(log_probs), -1, -1))
    impossible = torch.finfo(log_probs.dtype).min / 4
    places = torch.arange(extended.shape[1], device=device)
    # A blank between two different labels may be skipped.
    skips = torch.zeros_like(extended, dtype=torch.bool)
    skips[:, 2:] = (extended[:, 2:] != blank) & (extended[:, 2:] != extended[:, :-2])
    alpha = torch.where(places < 2, emitted[0], torch.full_like(emitted[0], impossible))
    for time in range(1, len(log_probs)):
        one = F.pad(alpha, (1, 0), value=impossible)[:, :-1]
        two = torch.where(skips, F.pad(alpha, (2, 0), value=impossible)[:, :-2], torch.full_like(alpha, impossible))
        ahead = (torch.logsumexp(torch.stack((alpha, one, two)), 0) + emitted[time]).clamp(min=impossible)
        alpha = torch.where((time < input_lengths).unsqueeze(1), ahead, alpha)
    last = 2 * target_lengths
    ends = torch.stack(
        (
            alpha.gather(1, last.unsqueeze(1)).squeeze(1),
            torch.where(
                target_lengths > 0,
                alpha.gather(1, (last - 1).clamp(min=0).unsqueeze(1)).squeeze(1),
                torch.full_like(alpha[:, 0], impossible),
            ),
        )
    )
    losses = -torch.logsumexp(ends, 0)
    unreachable = losses.detach() > -impossible / 2
    losses = torch.where(unreachable, torch.full_like(losses, 0.0 if zero_infinity else float("inf")), losses)
    if reduction == "mean":
        mean: Tensor = (losses / target_lengths.clamp(min=1)).mean()
        return mean
    losses = losses.sum() if reduction == "sum" else losses
    return losses.squeeze(0) if single and reduction == "none" else losses


def _with_blanks(targets: Tensor, lengths: Tensor, samples: int, blank: int) -> Tensor:
    """Labels with blanks between and around them, (samples, 2 longest + 1)."""
    longest = max(1, int(lengths.max()))
    padded = targets.new_full((samples, longest), blank)
    if targets.dim() == 1:
        # Not tolist(), which older releases of torch lack inside of their transforms.
        for sample, part in enumerate(targets.split([int(length) for length in lengths])):
            padded[sample, : len(part)] = part
    else:
        inside = torch.arange(longest, device=targets.device) < lengths.unsqueeze(1)
        padded = torch.where(inside, targets[:, :longest], padded)
    extended = targets.new_full((samples, 2 * longest + 1), blank)
    extended[:, 1::2] = padded
    return extended.long()


TWINS: dict[Any, Twin] = {
    F.silu: _silu,
    F.mish: _mish,
    F.group_norm: _group_norm,
    torch._weight_norm: _weight_norm,
    torch.cdist: _cdist,
    F.embedding_bag: _embedding_bag,
    F.ctc_loss: _ctc_loss,
}
"""Operation to the formula; one that returns None leaves the call to torch."""
