"""Named tensors as one flat vector, and back."""

import torch

from hydragrad.derivatives import Layout


def test_a_layout_goes_there_and_back():
    layout = Layout({"a": (2, 3), "b": (), "c": (4,)})
    assert layout.size == 11 and layout.names == ("a", "b", "c")
    named = {"c": torch.arange(4.0), "a": torch.ones(2, 3), "b": None, "elsewhere": torch.ones(5)}
    flat = layout.flatten(named, torch.zeros(1, dtype=torch.float64))
    assert flat.dtype == torch.float64 and flat.tolist() == [1] * 6 + [0] + [0, 1, 2, 3]
    rows = torch.stack([flat, 2 * flat])
    views = layout.views(rows)
    assert {name: tuple(view.shape) for name, view in views.items()} == {"a": (2, 2, 3), "b": (2,), "c": (2, 4)}
    views["a"][1, 0, 0] = -1.0
    assert rows[1, 0] == -1.0, "views, not copies"
    assert {name: tuple(view.shape) for name, view in layout.views(flat).items()} == {"a": (2, 3), "b": (), "c": (4,)}
    assert layout.span(("b", "c")) == slice(6, 11)
