"""Derivatives of the losses of samples along directions, at a checkpoint: what a move of the weights does to each."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hydragrad.attribution.gauss_newton_matrix import CHUNK, COMPARED
from hydragrad.attribution.gradients import on_device
from hydragrad.derivatives import (
    Batch,
    Layout,
    LossModule,
    compare_with_safe,
    directional_derivatives,
    directional_one_by_one,
    tolerance_of,
    works_at_once,
)
from hydragrad.derivatives.directional.forward_mode import Directional
from hydragrad.errors import NonFinite
from hydragrad.randomness import preserved
from hydragrad.replay import Trained, fetch, require_map_style, samples_in
from hydragrad.runs.checkpoints import Checkpoint
from hydragrad.scores import checked_samples


class LossesAlong:
    """Differentiates the losses of samples along directions, in eval mode.

    Args:
        run: A recorded run, or checkpoints of a model trained elsewhere.
        layout: Lays out the directions.
        at: The weights.
        samples: Ids of training samples, or of candidates; all if None.
        candidates: A data set in place of the training set.
    """

    def __init__(
        self,
        run: Trained,
        layout: Layout,
        at: Checkpoint,
        samples: Tensor | None = None,
        candidates: Dataset[Any] | None = None,
    ) -> None:
        self._run, self._layout, self._candidates = run, layout, candidates
        self._problem = LossModule(run.model, run.loss)
        self._problem.eval()
        self._parameters, self._buffers = on_device(run, at.parameters), on_device(run, at.buffers)
        self._samples = sample_ids(run, None, candidates) if samples is None else samples
        self._forward_mode: bool | None = None
        self._at_once: bool | None = None

    def __call__(self, directions: Tensor) -> Tensor:
        """Derivatives along directions (Q, parameters), float64 (Q, samples).

        Raises:
            NonFinite: Names samples whose losses have no finite derivative.

        Cost: one forward pass over the samples and, a direction, two products a layer.
        """
        with preserved():
            derivatives = self._trusted(directions)
            return torch.cat([self._part(derivatives, ids, directions) for ids in self._samples.split(CHUNK)], dim=1)

    def _part(self, derivatives: Callable[..., Directional], ids: Tensor, directions: Tensor) -> Tensor:
        part = derivatives(*self._here(ids), directions).losses_dot.double().cpu()
        if not part.isfinite().all():
            wrong = ids[~part.isfinite().all(0)].tolist()
            raise NonFinite(
                f"The losses of samples must have finite derivatives; those of {wrong[:5]} have not. Look for NaN or "
                f"infinity in these samples, or leave them out (samples=)."
            )
        return part

    def _trusted(self, directions: Tensor) -> Callable[..., Directional]:
        """By forward mode where that gives what single backward passes give; else by the latter."""
        here = self._here(self._samples[:COMPARED])
        if self._forward_mode is None:
            safe = directional_one_by_one(*here, directions[:1]).losses_dot
            compared = compare_with_safe(
                lambda: [directional_derivatives(*here, directions[:1]).losses_dot],
                [safe],
                tolerance=tolerance_of(safe.dtype),
            )
            # Derivatives that are not finite are named by the caller, and NaN agrees with nothing.
            self._forward_mode = compared.trusted or not bool(safe.isfinite().all())
        if not self._forward_mode:
            return directional_one_by_one
        if len(directions) > 1 and self._at_once is None:
            self._at_once = works_at_once(*here)
        return partial(directional_derivatives, at_once=len(directions) > 1 and bool(self._at_once))

    def _here(self, ids: Tensor) -> tuple[LossModule, Layout, dict[str, Tensor], dict[str, Tensor], Batch]:
        batch = Batch(_fetched(self._run, ids, self._candidates), len(ids), 0)
        return self._problem, self._layout, self._parameters, self._buffers, batch


def losses_along(
    run: Trained,
    layout: Layout,
    at: Checkpoint,
    directions: Tensor,
    samples: Tensor | None = None,
    candidates: Dataset[Any] | None = None,
) -> Tensor:
    """The same once, of directions (Q, parameters): float64 (Q, samples)."""
    return LossesAlong(run, layout, at, samples, candidates)(directions)


def sample_ids(run: Trained, samples: Sequence[int] | Tensor | None, candidates: Dataset[Any] | None) -> Tensor:
    """Ids of training samples, or of candidates; all if None.

    Raises:
        QueryError: Ids that do not exist.
        DataError: The candidates are no map-style data set, or none.
    """
    if candidates is None:
        return checked_samples(samples, samples_in(run))
    require_map_style(candidates, "data set of candidates")
    return checked_samples(samples, len(candidates))  # type: ignore[arg-type]


def _fetched(run: Trained, ids: Tensor, candidates: Dataset[Any] | None) -> Any:
    if candidates is None:
        return run.collate(ids.tolist())
    return fetch(candidates, ids.tolist(), seed=0, collate=run.collate_fn, device=run.device)
