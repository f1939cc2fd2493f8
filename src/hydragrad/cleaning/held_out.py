"""What held-out data say of each sample at the trained weights: influence functions, saved with the run."""

from torch import Tensor

from hydragrad.attribution.influence import DAMPING, ITERATIONS, MATRIX, influence_at, query_gradients
from hydragrad.derivatives import Layout
from hydragrad.errors import LossError, QueryError
from hydragrad.replay import Recording, Trained
from hydragrad.replay.histories import trained_layout
from hydragrad.runs.kept import Kept, tensor_key
from hydragrad.scores import Query
from hydragrad.trained_elsewhere import Checkpoints


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
        return _measured(run, run.layout, query_gradients(run, run.layout, run.final, held_out))
    layout = trained_layout(run)
    gradients = query_gradients(run, layout, run.final, held_out)
    # Two queries differ in their gradient if their influences differ.
    kept = Kept(run.path / "signals", "influence", [run.digest, DAMPING, ITERATIONS, MATRIX, tensor_key(gradients)])
    saved = kept.read_as(lambda tensors, _: tensors["influence"])
    if saved is not None:
        return saved
    influences = _measured(run, layout, gradients)
    if influences is not None:
        kept.write({"influence": influences})
    return influences


def _measured(run: Trained, layout: Layout, gradients: Tensor) -> Tensor | None:
    try:
        return influence_at(run, layout, run.final, gradients).values[0]
    except (LossError, NotImplementedError):
        return None
