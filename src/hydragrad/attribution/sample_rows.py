"""Gradients of single samples at the trained weights, projected: which samples pull a model the same way."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from hydragrad.attribution.gradients import on_device
from hydragrad.derivatives import Batch, Layout, LossModule, Projector, sample_gradients
from hydragrad.errors import NonFinite
from hydragrad.progress import bar
from hydragrad.randomness import preserved
from hydragrad.replay import Recording, Trained
from hydragrad.replay.histories import trained_layout
from hydragrad.trained_elsewhere import Checkpoints

AT_ONCE = 64
"""Samples in one batch."""


def projected_gradients(
    run: Recording | Checkpoints,
    samples: Sequence[int],
    *,
    fetch_batch: Callable[[Sequence[int]], Any] | None = None,
    dims: int = 1024,
) -> Tensor:
    """Gradients of the losses of samples at the trained weights, in eval mode, projected.

    Products of two of them are right on average; their standard deviation is about 1 / sqrt(dims) of the two lengths.

    Args:
        run: The recorded run, or checkpoints of a model trained elsewhere.
        samples: Which ones.
        fetch_batch: Makes the batch of some of them; that of training samples if None.
        dims: Columns, at most; a model with fewer parameters is not projected.

    Returns:
        Of the weights' dtype, (samples, columns), on the CPU.

    Raises:
        NonFinite: Names samples whose gradients are not finite.

    Cost: a forward pass, and a backward pass a sample.
    """
    layout = _layout(run)
    problem = LossModule(run.model, run.loss)
    problem.eval()
    parameters, buffers = on_device(run, run.final.parameters), on_device(run, run.final.buffers)
    like = next(iter(parameters.values()))
    projector = Projector(layout, [layout.names], min(dims, layout.size), dtype=like.dtype, device=like.device)
    fetch_batch = run.collate if fetch_batch is None else fetch_batch

    def rows_of(batch: Batch, places: Sequence[int]) -> Tensor:
        return sample_gradients(problem, layout, parameters, buffers, batch, places, projector=projector)[1].cpu()

    parts = [torch.zeros(0, projector.width, dtype=like.dtype)]
    with preserved(), bar("gradients", len(samples), unit="samples") as progress:
        for start in range(0, len(samples), AT_ONCE):
            ids = list(samples[start : start + AT_ONCE])
            batch = Batch(fetch_batch(ids), len(ids), 0)
            parts.append(rows_of(batch, range(len(ids))))
            if not parts[-1].isfinite().all():
                _refuse(ids, [bool(rows_of(Batch(fetch_batch([one]), 1, 0), [0]).isfinite().all()) for one in ids])
            progress.advance(len(ids))
    return torch.cat(parts)


def _refuse(samples: Sequence[int], finite: Sequence[bool]) -> NoReturn:
    """Name samples whose own gradients are not finite; in a batch, NaN spreads to those of others."""
    wrong = [sample for sample, fine in zip(samples, finite, strict=True) if not fine] or list(samples)
    raise NonFinite(
        f"The losses of samples must have finite derivatives; those of {wrong[:5]} have not. Look for NaN or infinity "
        f"in these samples, or leave them out."
    )


def _layout(run: Trained) -> Layout:
    return run.layout if isinstance(run, Checkpoints) else trained_layout(run)  # type: ignore[arg-type]
