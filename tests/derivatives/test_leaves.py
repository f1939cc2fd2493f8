"""The tensors of nested data."""

import torch

from hydragrad.derivatives import tensor_leaves


def test_leaves_of_nested_data():
    a, b, c = torch.zeros(1), torch.ones(2), torch.ones(3)
    found = tensor_leaves({"x": [a, ("text", b)], "y": 3, "z": {"w": c}})
    assert [id(leaf) for leaf in found] == [id(a), id(b), id(c)]
    assert tensor_leaves(4) == []
