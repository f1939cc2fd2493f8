"""What held-out data say of each sample: influence functions averaged over the run, saved with it."""

import torch
from torch import Tensor

from hydragrad.attribution.influence import MATRIX, influence_at, query_gradients
from hydragrad.cleaning.signals import checkpoints_of
from hydragrad.derivatives import Layout
from hydragrad.errors import LossError, QueryError
from hydragrad.replay import Recording
from hydragrad.replay.checkpoint_spread import spread_steps
from hydragrad.replay.histories import trained_layout
from hydragrad.runs.kept import Kept, tensor_key
from hydragrad.scores import Query
from hydragrad.trained_elsewhere import Checkpoints

CHECKPOINTS, ITERATIONS = 5, 10
"""Checkpoints that influence is averaged over, evenly by steps, and products of the Gauss-Newton matrix at each. At the
trained weights alone it finds much less, and more products find no more; docs/results.md."""


def influence(run: Recording | Checkpoints, held_out: Query) -> Tensor | None:
    """Influence of every training sample on a held-out loss, float64 (samples,); that of a run is saved in RUN/signals.

    Args:
        run: The recorded run, or checkpoints of a model trained elsewhere.
        held_out: One scalar.

    Returns:
        None where the loss has no Gauss-Newton matrix, or an operation of the model no forward-mode rule.

    Raises:
        QueryError: Several scalars.
    """
    if len(held_out.names()) != 1:
        raise QueryError(f"held_out= takes one scalar, as hg.mean_loss(held_out) is; got {len(held_out.names())}.")
    if isinstance(run, Checkpoints):
        return _measured(run, run.layout, held_out)
    steps = spread_steps(run, CHECKPOINTS)
    layout = trained_layout(run)
    # Two queries differ in their gradient if their influences differ.
    key = [run.digest, steps, ITERATIONS, MATRIX, tensor_key(query_gradients(run, layout, run.final, held_out))]
    kept = Kept(run.path / "signals", "influence", key)
    saved = kept.read_as(lambda tensors, _: tensors["influence"])
    if saved is not None:
        return saved
    influences = _measured(run, layout, held_out)
    if influences is not None:
        kept.write({"influence": influences})
    return influences


def _measured(run: Recording | Checkpoints, layout: Layout, held_out: Query) -> Tensor | None:
    *earlier, _ = checkpoints_of(run, CHECKPOINTS)
    total = torch.zeros((), dtype=torch.float64)
    try:
        for number in range(len(earlier) + 1):  # one in memory at a time; the last may be an average of weights
            checkpoint = earlier[number]() if number < len(earlier) else run.final
            gradients = query_gradients(run, layout, checkpoint, held_out)
            total = (
                total + influence_at(run, layout, checkpoint, gradients, damping=None, iterations=ITERATIONS).values[0]
            )
    except (LossError, NotImplementedError):
        return None
    return total / (len(earlier) + 1)
