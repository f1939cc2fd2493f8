"""Gradients of single training samples at a checkpoint, in eval mode, some samples at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from hydragrad.derivatives import Batch, FrozenGradients, Layout, LossModule, Projector, copy_of
from hydragrad.errors import NonFinite
from hydragrad.randomness import preserved
from hydragrad.replay import Trained
from hydragrad.runs.buffers import put_state
from hydragrad.runs.checkpoints import Checkpoint

CHUNK, BYTES = 64, 1 << 28
"""Samples at a time, and bytes of their gradients, at most."""


class GradientsAt:
    """Differentiates the losses of samples, a row each.

    Args:
        run: A recorded run, or checkpoints of a model trained elsewhere.
        layout: The parameters to differentiate by.
        at: The weights.
        projector: Projects the rows; whole rows if None.
    """

    def __init__(self, run: Trained, layout: Layout, at: Checkpoint, projector: Projector | None = None) -> None:
        self._run, self._layout = run, layout
        with preserved():
            self._model = copy_of(run.model)
        put_state(self._model, at.parameters | at.buffers)
        self._model.eval()
        for name, value in self._model.named_parameters():
            value.requires_grad_(name in layout.spans)
        self._rows = FrozenGradients(self._model, run.loss, layout, projector)

    def blocks(self, samples: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Ids and rows (ids, columns) of some samples after the other.

        Raises:
            NonFinite: Names samples whose gradients are not finite.

        Cost: one forward and backward pass where the layers' rules hold, else one backward pass a sample.
        """
        item = next(self._model.parameters()).element_size()
        size = max(1, min(CHUNK, BYTES // (self._layout.size * item)))
        for ids in samples.split(size):
            yield ids, self.rows(ids)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of so many samples at once."""
        with preserved():
            rows = self._of(ids)
            if not rows.isfinite().all():
                # In a batch, NaN spreads from one sample to others.
                wrong = [int(one) for one in ids if not self._of(one[None]).isfinite().all()] or ids.tolist()
                raise NonFinite(
                    f"The losses of samples must have finite derivatives; those of {wrong[:5]} have not. Look for NaN "
                    f"or infinity in these samples, or leave them out (samples=)."
                )
        return rows

    def mean_loss(self, samples: Tensor) -> float:
        """The mean loss of samples."""
        problem, total = LossModule(self._model, self._run.loss), 0.0
        with preserved(), torch.no_grad():
            for ids in samples.split(CHUNK):
                losses, _ = problem(Batch(self._run.collate(ids.tolist()), len(ids), 0))
                total += float(losses.double().sum())
        return total / len(samples)

    def _of(self, ids: Tensor) -> Tensor:
        batch = Batch(self._run.collate(ids.tolist()), len(ids), 0)
        return self._rows(self._model, batch, range(len(ids)))
