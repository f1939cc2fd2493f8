"""Buffers of a model as a run has them: they may appear, grow or be sparse."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from hydragrad.errors import Unsupported


def put_buffers(model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Give a model the buffers of a recorded state, in place.

    A buffer that the state does not have is removed, since a forward pass registers it; one that the model does not
    have, or has in another shape, is put there.
    """
    device = next(model.parameters()).device
    present = dict(model.named_buffers())
    for name in [*present, *(name for name in buffers if name not in present)]:
        path, _, own = name.rpartition(".")
        module, before, value = model.get_submodule(path), present.get(name), buffers.get(name)
        if value is None:
            del module._buffers[own]
        elif before is not None and fits(before, value):
            before.data.copy_(value)
        elif before is not None:
            module._buffers[own] = value.to(device, copy=True)
        else:
            module.register_buffer(own, value.to(device, copy=True))


def fits(buffer: Tensor, value: Tensor) -> bool:
    """Whether a value can be copied into a buffer."""
    return buffer.shape == value.shape and buffer.layout is value.layout is torch.strided


def put_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a model the parameters and buffers of a state, in place."""
    names = {name for name, _ in model.named_parameters()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[name])
    put_buffers(model, {name: value for name, value in state.items() if name not in names})


def require_dense(buffers: Mapping[str, Tensor], folder: Path | None) -> None:
    """Refuse sparse buffers where they would be written into a folder of rows.

    Raises:
        Unsupported: Names them.
    """
    sparse = [name for name, value in buffers.items() if value.layout is not torch.strided]
    if sparse and folder is not None:
        raise Unsupported(
            f"Stores on disk hold dense tensors; the model's buffer {sparse[0]} is sparse. Keep the store in memory "
            f"(store=None), or keep that tensor as a plain attribute of the module."
        )


def same_values(a: Tensor, b: Tensor) -> bool:
    """Whether two buffers are equal, whatever their layout."""
    if a.shape != b.shape or a.layout is not b.layout:
        return False
    if a.layout is torch.strided:
        return torch.equal(a, b)
    a, b = a.to_sparse_coo().coalesce(), b.to_sparse_coo().coalesce()
    return torch.equal(a.indices(), b.indices()) and torch.equal(a.values(), b.values())
