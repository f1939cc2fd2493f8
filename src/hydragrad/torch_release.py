"""What depends on the installed release of torch: what later ones brought."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from torch.optim import Adam, AdamW, Optimizer
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from hydragrad.errors import Unsupported
from hydragrad.supported_torch import require_supported

MUON: type[Optimizer] | None = getattr(torch.optim, "Muon", None)
"""torch.optim.Muon, which came with torch 2.9."""

OPTIONS_ADDED_LATER: Mapping[type[Optimizer], Mapping[str, Any]] = {
    Adam: {"decoupled_weight_decay": False},
    AdamW: {"decoupled_weight_decay": True},
}
"""Options that a parameter group has from torch 2.7 on, with what holds before."""

ADAM_DECOUPLES: bool = "decoupled_weight_decay" in signature(Adam).parameters
"""Whether torch's Adam has that option."""


def require_options(optimizer: Optimizer, options: Mapping[str, Any]) -> None:
    """Refuse options of a recorded parameter group that the installed torch would ignore.

    Raises:
        Unsupported: It would.
    """
    if type(optimizer) is Adam and options.get("decoupled_weight_decay") and not ADAM_DECOUPLES:
        raise Unsupported(
            f"The run was recorded with Adam(decoupled_weight_decay=True), which torch {torch.__version__} does not "
            f"have. Open it with torch 2.7 or newer."
        )


def default_device() -> torch.device:
    """The device of new tensors, as torch.get_default_device() has it: that of older releases misses `with device:`."""
    modes = [mode for mode in _get_current_function_mode_stack() if isinstance(mode, DeviceContext)]
    if not modes:
        return torch.device("cpu")
    device: torch.device = modes[-1].device
    return device if device.index is not None else torch.empty(0).device


require_supported(torch.__version__)
