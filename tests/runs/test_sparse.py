"""Sparse tensors are taken apart for a safetensors file, and put together again."""

import pytest
import torch

from hydragrad.runs.sparse import put_together, take_apart

DENSE = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0]])


@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta state:UserWarning")
@pytest.mark.parametrize("convert", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr, torch.Tensor.to_sparse_csc])
def test_a_sparse_tensor_comes_back_in_its_layout(convert):
    plain = {"other": 1}
    parts = take_apart("buffers/a", convert(DENSE), plain)
    assert all(part.layout is torch.strided for part in parts.values())
    ((name, again),) = put_together(plain, parts.__getitem__)
    assert name == "buffers/a" and again.layout is convert(DENSE).layout
    assert torch.equal(again.to_dense(), DENSE)
