"""Exact tangents of the run, forward: d(weights, running statistics)/d(sample weight), curvature included.

One step differentiates the batch gradient along (w_dot, r_dot, alpha_dot) of every tracked sample: forward over
reverse, several samples in one vectorised tangent.

Source: Chen et al. 2021, eqs. 35-36 ("with Hessian"), generalised to running statistics.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad, jvp

from hydragrad.derivatives import Batch, Layout, LossModule, PerSampleLoss, use_explicit_batch_norm
from hydragrad.derivatives.directional import differentiable_kernels
from hydragrad.derivatives.stopped import stopped_gradients

AT_ONCE = 8
"""Samples in one vectorised tangent: each holds activations of its own."""

Named = dict[str, Tensor]
Along = Callable[[Named, Named, Tensor], tuple[Named, Named]]


class Tangents(NamedTuple):
    """Tangents of the batch gradient (rows, parameters), and of the statistics after the step (rows, statistics)."""

    g_dot: Tensor
    r_dot: Tensor


class ExactTangents:
    """Differentiates one step's batch gradient along the tangents of many samples.

    Args:
        model: Is copied.
        loss: Per-sample loss.
        weights: Lays out the parameters.
        statistics: Lays out the running statistics.
    """

    def __init__(self, model: nn.Module, loss: PerSampleLoss, weights: Layout, statistics: Layout) -> None:
        self._model, self._weights, self._statistics = model, weights, statistics
        self._problem = LossModule(model, loss, use_explicit_batch_norm)
        self._at_once: int | None = None

    def __call__(
        self,
        parameters: Named,
        buffers: Named,
        batch: Batch,
        divisor: float,
        w_dot: Tensor,
        r_dot: Tensor,
        alpha_dot: Tensor,
    ) -> Tangents:
        """Differentiate.

        Args:
            parameters: Before the step.
            buffers: Before the step.
            batch: The step's data.
            divisor: The step's loss is the sum of its per-sample losses over this number.
            w_dot: (rows, parameters).
            r_dot: (rows, statistics).
            alpha_dot: Tangents of the weights of the batch's losses, (rows, batch).
        """
        for copy, original in zip(self._problem.model.modules(), self._model.modules(), strict=True):
            copy.training = original.training
        chosen = {name: parameters[name].detach() for name in self._weights.names}
        statistics = {name: buffers[name].detach() for name in self._statistics.names}
        alpha = alpha_dot.new_ones(batch.size)

        def objective(weights: Named, moving: Named, alphas: Tensor) -> tuple[Tensor, Named]:
            losses, after = self._problem.at(parameters | weights, buffers | moving, batch)
            return (losses * alphas).sum() / divisor, {name: after[name] for name in self._statistics.names}

        gradient = grad(objective, has_aux=True)

        def along(w: Named, r: Named, a: Tensor) -> tuple[Named, Named]:
            result: tuple[Named, Named] = jvp(gradient, (chosen, statistics, alpha), (w, r, a))[1]
            return result

        with differentiable_kernels(), stopped_gradients():
            if self._at_once is None:
                self._at_once = self._agrees_at_once(along, w_dot, r_dot, alpha_dot)
            rows = zip(
                w_dot.split(self._at_once), r_dot.split(self._at_once), alpha_dot.split(self._at_once), strict=True
            )
            parts = [self._chunk(along, *each) for each in rows]
        return Tangents(torch.cat([part.g_dot for part in parts]), torch.cat([part.r_dot for part in parts]))

    def _chunk(self, along: Along, w_dot: Tensor, r_dot: Tensor, alpha_dot: Tensor) -> Tangents:
        w, r = self._weights.views(w_dot), self._statistics.views(r_dot)
        if len(w_dot) > 1:
            g, after = torch.vmap(along, randomness="same")(w, r, alpha_dot)
        else:
            g, after = along(*({k: v[0] for k, v in named.items()} for named in (w, r)), alpha_dot[0])
        return Tangents(_flat(g, self._weights, w_dot), _flat(after, self._statistics, r_dot))

    def _agrees_at_once(self, along: Along, w_dot: Tensor, r_dot: Tensor, alpha_dot: Tensor) -> int:
        """How many tangents may be vectorised: some models draw other dropout there, or have no batching rule."""
        generator = torch.Generator().manual_seed(0)
        random = [
            torch.randn(2, each.shape[1], generator=generator, dtype=each.dtype).to(each.device)
            for each in (w_dot, r_dot, alpha_dot)
        ]
        singly = torch.cat([self._chunk(along, *(each[i : i + 1] for each in random)).g_dot for i in (0, 1)])
        try:
            found = self._chunk(along, *random).g_dot
        except (RuntimeError, NotImplementedError, ValueError):
            return 1
        return AT_ONCE if float((found - singly).norm()) <= 1e-3 * float(singly.norm()) else 1


def _flat(named: Named, layout: Layout, like: Tensor) -> Tensor:
    parts = [named[name].reshape(len(like), -1) for name in layout.names]
    return torch.cat(parts, 1) if parts else like.new_zeros(len(like), 0)
