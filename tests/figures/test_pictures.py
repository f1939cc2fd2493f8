import numpy as np
import pytest

from hydragrad.errors import PresentationError
from hydragrad.figures import picture_grid


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((3, 4)), np.zeros((3, 4, 4), np.uint8), np.zeros(3, np.uint8), np.zeros((0, 4), np.uint8)],
)
def test_pictures_of_other_types_and_shapes_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(PresentationError, match="A picture must be uint8 of shape"):
        picture_grid([wrong], [""], 1)


def test_a_grid_has_one_caption_per_picture() -> None:
    figure = picture_grid([np.zeros((4, 4), np.uint8)] * 3, ["one", "two\n$2", "three"], 2)
    assert [axes.get_title() for axes in figure.axes] == ["one", "two\n\\$2", "three"]
    rows = {round(axes.get_subplotspec().rowspan.start) for axes in figure.axes}
    assert rows == {0, 1}
