"""What depends on the installed release of torch: the oldest that works, and what later ones brought."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Adam, AdamW, Optimizer

from hydragrad.errors import TorchTooOld

OLDEST = (2, 6)
"""The oldest release of torch that the tests pass with."""

MUON: type[Optimizer] | None = getattr(torch.optim, "Muon", None)
"""torch.optim.Muon, which came with torch 2.9."""

OPTIONS_ADDED_LATER: Mapping[type[Optimizer], Mapping[str, Any]] = {
    Adam: {"decoupled_weight_decay": False},
    AdamW: {"decoupled_weight_decay": True},
}
"""Options that a parameter group has from torch 2.7 on, with what holds before."""


def require_supported(installed: str) -> None:
    """Refuse a release of torch that is older than the oldest that works.

    Raises:
        TorchTooOld: It is; builds before a release (`2.8.0a0+...`) count as the release.
    """
    numbers = re.match(r"(\d+)\.(\d+)", installed)
    if numbers is not None and (int(numbers[1]), int(numbers[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise TorchTooOld(
            f"hydragrad needs torch {oldest} or newer; torch {installed} is installed. Install a newer one: "
            f"pip install 'torch>={oldest}'."
        )


require_supported(torch.__version__)
