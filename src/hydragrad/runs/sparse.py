"""Sparse tensors in a safetensors file, which holds dense ones only: places and values, as two tensors."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

SPARSE = "sparse/"
"""What the names of the parts start with."""

LAYOUTS = {
    "coo": (torch.sparse_coo, lambda tensor: tensor),
    "csr": (torch.sparse_csr, lambda tensor: tensor.to_sparse_csr()),
    "csc": (torch.sparse_csc, lambda tensor: tensor.to_sparse_csc()),
}


def take_apart(name: str, tensor: Tensor, plain: dict[str, Any]) -> dict[str, Tensor]:
    """The parts of a sparse tensor by name; layout and shape go into `plain`."""
    layout = next(key for key, (layout, _) in LAYOUTS.items() if layout is tensor.layout)
    coordinates = tensor.detach().cpu().to_sparse_coo().coalesce()
    plain[SPARSE + name] = [layout, list(tensor.shape)]
    return {
        f"{SPARSE}{name}/indices": coordinates.indices().contiguous(),
        f"{SPARSE}{name}/values": coordinates.values().contiguous(),
    }


def put_together(plain: dict[str, Any], read: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The sparse tensors that were taken apart, by name."""
    for key, entry in plain.items():
        if key.startswith(SPARSE):
            layout, shape = entry
            indices, values = read(f"{key}/indices"), read(f"{key}/values")
            coordinates = torch.sparse_coo_tensor(indices, values, shape, is_coalesced=True, check_invariants=True)
            yield key.removeprefix(SPARSE), LAYOUTS[layout][1](coordinates)
