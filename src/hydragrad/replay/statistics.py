"""Which running statistics a recorded run moved."""

import torch

from hydragrad.derivatives import running_statistics
from hydragrad.errors import Unsupported
from hydragrad.replay.recording import Recording
from hydragrad.runs.buffers import same_values


def moved_statistics(run: Recording) -> dict[str, torch.Size]:
    """Shapes of the running statistics that carry a derivative.

    Raises:
        Unsupported: Other buffers moved.
    """
    last = run.last.buffers
    first = run.initial.buffers
    if not last.keys() <= first.keys():  # some were registered by the first forward pass
        first = {**run.checkpoint(run.segments[-1][0]).buffers, **first}
    moved = {name for name, buffer in last.items() if name not in first or not same_values(buffer, first[name])}
    known = running_statistics(run.model)
    unknown = sorted(name for name in moved - known if last[name].is_floating_point())
    if unknown:
        raise Unsupported(
            f"The buffers {', '.join(unknown)} update themselves during training in a way that is not BatchNorm's, so "
            f"their derivative is not known. Use curvature='none', which treats buffers as constants."
        )
    return {name: last[name].shape for name in last if name in known}
