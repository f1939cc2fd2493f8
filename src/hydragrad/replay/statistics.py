"""Which running statistics a recorded run moved."""

import torch

from hydragrad.derivatives import running_statistics
from hydragrad.errors import Unsupported
from hydragrad.replay.recording import Recording


def moved_statistics(run: Recording) -> dict[str, torch.Size]:
    """Shapes of the running statistics that carry a derivative.

    Raises:
        Unsupported: Other buffers moved.
    """
    first, last = run.initial.buffers, run.final.buffers
    moved = {name for name, buffer in last.items() if not torch.equal(buffer, first[name])}
    known = running_statistics(run.model)
    unknown = sorted(name for name in moved - known if last[name].is_floating_point())
    if unknown:
        raise Unsupported(
            f"The buffers {', '.join(unknown)} update themselves during training in a way that is not BatchNorm's, so "
            f"their derivative is not known. Use curvature='none', which treats buffers as constants."
        )
    return {name: last[name].shape for name in last if name in known}
