"""What the trained weights say of each sample in view of held-out data: influence functions, kept with the run."""

import hashlib
from pathlib import Path

from torch import Tensor

from hydragrad.attribution.influence import DAMPING, ITERATIONS, MATRIX, influence_at, query_gradients
from hydragrad.disk import load_sealed, save_sealed
from hydragrad.errors import LossError, QueryError
from hydragrad.replay import Recording
from hydragrad.replay.histories import trained_layout
from hydragrad.scores import Query


def influence(run: Recording, held_out: Query) -> Tensor | None:
    """Influence of every training sample on a held-out loss, float64 (samples,); kept in RUN/signals.

    Args:
        run: The recorded run.
        held_out: One scalar.

    Returns:
        None where the loss has no Gauss-Newton matrix, or an operation of the model no forward-mode rule.

    Raises:
        QueryError: Several scalars.
    """
    if len(held_out.names()) != 1:
        raise QueryError(f"held_out= takes one scalar, as hg.mean_loss(held_out) is; {len(held_out.names())} came.")
    layout = trained_layout(run)
    gradients = query_gradients(run, layout, run.final, held_out)
    file = _file(run, gradients)
    if file.exists():
        try:
            return load_sealed(file)[0]["influence"]
        except (OSError, KeyError, ValueError):
            pass  # damaged: measured again
    try:
        found = influence_at(run, layout, run.final, gradients)[0]
    except (LossError, NotImplementedError):
        return None
    save_sealed({"influence": found}, file)
    return found


def _file(run: Recording, gradients: Tensor) -> Path:
    """Named after the gradient of what is asked, by which two questions differ if their influences do."""
    told = hashlib.sha256(gradients.cpu().double().numpy().tobytes()).hexdigest()[:16]
    name = f"influence-step{len(run.steps)}-damping{DAMPING:g}-iterations{ITERATIONS}-of{MATRIX}-{told}.safetensors"
    return run.path / "signals" / name
