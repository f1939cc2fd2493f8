"""Samples as a person sees them."""

import numpy as np
import pytest
import torch
from PIL import Image

from hydragrad.errors import PresentationError
from hydragrad.reports.rendering import LONGEST_TEXT, MOST_VALUES, rendered

LABEL = torch.tensor(1)


@pytest.mark.parametrize(
    ("image", "shape"),
    [
        (torch.rand(1, 8, 6), (8, 6)),
        (torch.rand(3, 8, 6), (8, 6, 3)),
        (torch.rand(8, 6), (8, 6)),
        (np.random.default_rng(0).random((8, 6, 3)), (8, 6, 3)),
        (np.zeros((8, 6, 1), np.uint8), (8, 6)),
        (Image.new("RGB", (6, 8)), (8, 6, 3)),
        (Image.new("1", (6, 8)), (8, 6)),
        (Image.new("P", (6, 8)), (8, 6, 3)),
    ],
)
def test_images_of_every_make(image, shape):
    shown = rendered((image, LABEL))
    assert shown.dtype == np.uint8 and shown.shape == shape


def test_normalised_images_take_the_whole_range():
    shown = rendered((torch.tensor([[-1.0, 0.0], [1.0, torch.nan]]), LABEL))
    assert shown.tolist() == [[0, 128], [255, 128]]
    assert rendered((torch.tensor([[0.25, 0.5]]).repeat(2, 1), LABEL)).tolist() == [[64, 128]] * 2, "0 to 1 is kept"
    assert rendered((torch.tensor([[7, 200]], dtype=torch.uint8).repeat(2, 1), LABEL)).tolist() == [[7, 200]] * 2


def test_texts_rows_and_tokens():
    assert rendered(("a text", 1)) == "a text"
    assert rendered("alone") == "alone"
    assert len(rendered(("x" * 10_000, 1))) == LONGEST_TEXT
    row = rendered((torch.tensor([0.5, -2.0]), LABEL), columns=["height", "weight"])
    assert row == {"height": "0.5", "weight": "−2"}
    assert rendered((torch.tensor([0.5]), LABEL)) == {"x0": "0.5"}
    assert len(rendered((torch.zeros(500), LABEL))) == MOST_VALUES
    assert rendered((torch.tensor([5, 17, 3]), LABEL)) == "5 17 3", "numbers of tokens are no measurements"
    assert rendered(({"age": torch.tensor(3), "word": "x", "mask": torch.ones(9)}, LABEL)) == {"age": "3", "word": "x"}


@pytest.mark.parametrize("item", [(torch.zeros(2, 3, 4, 5), LABEL), (object(), LABEL), (torch.zeros(0), LABEL), None])
def test_what_cannot_be_guessed_is_not_shown(item):
    assert rendered(item) is None


def test_the_users_own_way_comes_first():
    assert rendered((1, 2), lambda item: f"{item}") == "(1, 2)"
    assert rendered(0, lambda item: {"a": 1, "b": np.float32(0.5), "c": torch.tensor([2.0])}) == {
        "a": "1",
        "b": "0.5",
        "c": "2",
    }
    assert rendered(0, lambda item: torch.full((4, 4), 9, dtype=torch.uint8)).tolist() == [[9] * 4] * 4
    assert rendered(0, lambda item: Image.new("L", (3, 2), 7)).tolist() == [[7] * 3] * 2
    assert rendered("text", lambda item: None) is None, "nothing is guessed beside it"
    for wrong, told in (
        (3, "got int"),
        (np.zeros((2, 2)), "got ndarray"),
        (np.zeros(5, np.uint8), "got uint8 of shape .5,."),
    ):
        with pytest.raises(PresentationError, match=told):
            rendered(0, lambda item, wrong=wrong: wrong)
